"""Public weights to files: whole or not at all, going on where it was cut, and the same file ever after.

    weights/SinSR_v1.pth               appears by rename, when size and checksum are right
    weights/SinSR_v1.pth.sha256        what it was when it first came, in the format of `sha256sum -c`
    weights/SinSR_v1.pth.part          what has come so far; .part.json: of which file (address, version, length)

files.py      get: the files of a release; fetch: one file, checked; next_command: what to do with them
transfer.py   HTTP into the partial file: retries, resumption, and everything that a server or a disk may answer
"""

from tadsr_jax.download.files import FOLDER, Fetched, check_published, fetch, get, next_command, verify
from tadsr_jax.download.transfer import DownloadFailed
