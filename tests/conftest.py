"""Settings shared by all tests."""

import torch

# The models of the tests are tiny: one thread each is fastest, and leaves the cores to parallel workers.
torch.set_num_threads(1)
