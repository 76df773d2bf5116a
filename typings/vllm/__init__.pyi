# What tvc's plugin uses of vLLM, which is not installed where types are checked. The versions that
# it was tried with are in tvc/serving/versions.py.
from . import envs as envs

__version__: str
