"""The hub's own Python client over a cache that clipmill shares.

Usage: hub.py fetch REPO REVISION NAME...    download files into HF_HUB_CACHE, from HF_ENDPOINT
       hub.py cached REPO REVISION DIR NAME...   the files are in the cache, with the bytes of DIR's,
                                             and what has no file in DIR is known not to exist;
                                             nothing is asked for
"""

import sys
from pathlib import Path

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.file_download import _CACHED_NO_EXIST
from huggingface_hub.utils import EntryNotFoundError

command, repo, revision, *rest = sys.argv[1:]
if command == "fetch":
    for name in rest:
        try:
            print(hf_hub_download(repo, name, revision=revision))
        except EntryNotFoundError:
            print(name, "is none of the repository")
else:
    folder, *names = rest
    for name in names:
        original = Path(folder) / name
        if not original.exists():
            found = try_to_load_from_cache(repo, name, revision=revision)
            assert found is _CACHED_NO_EXIST, (name, found)
            continue
        path = Path(hf_hub_download(repo, name, revision=revision, local_files_only=True))
        assert path.is_symlink() and not path.readlink().is_absolute(), path
        assert path.read_bytes() == original.read_bytes(), name
