"""Conversion: foreign weight files into our variables and back; nothing in a file is executed.

public       whole models: files into a bundle (`resshift`), a network into a file for PyTorch (`write`)
seesr        the same of the Stable Diffusion side, and the way back   seesr_folder   folders in the layout of diffusers
             (seesr_presets: what is published; seesr_texts: tokenizer and tags)
presets      the public releases by name                   settings     public configurations as our settings
names        public parameter names and layouts <-> our paths
torch_file   reads .pth, .ckpt, .safetensors (safe_pickle: pickles as data)        torch_save   writes them
sd_folder    folders of Stable Diffusion people, RAM, DAPE and DINO files (sd_files: shards; sd_names: old names;
             lora: low-rank updates merged)             lpips        the two files of LPIPS
"""
