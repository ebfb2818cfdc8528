"""Conversion: foreign weight files into our variables and back.

names        public parameter names and layouts <-> our paths      torch_file   .pth unexecuted, .safetensors
"""
