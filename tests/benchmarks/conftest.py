"""What several benchmarks share."""

import pytest
import torch


@pytest.fixture
def one_thread():
    """One thread, as the timer counts the processor's seconds of all of them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
