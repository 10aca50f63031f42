import pytest
import torch

from resight.models.build import float32_products


def test_how_a_gpu_multiplies_is_set_for_a_while():
    def now():
        return torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision

    before = now()
    with pytest.raises(KeyError), float32_products("tf32"):
        assert now() == ("tf32", "tf32")
        with float32_products("ieee"):
            assert now() == ("ieee", "ieee")
        assert now() == ("tf32", "tf32")
        raise KeyError
    assert now() == before
    torch.get_float32_matmul_precision()  # PyTorch's older switches can still be read
