"""The flow of a deployment whose runs a test holds at a gate. Only for the process that Prefect's worker starts."""

from flows.translate import translate_dataset as translate_dataset
from tests.gate import install

install()
