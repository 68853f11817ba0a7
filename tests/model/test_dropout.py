from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from speaq.model.dropout import Dropout, attention, keep_mask


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
def test_a_share_of_p_is_dropped_wherever_it_lies(p: float) -> None:
    torch.manual_seed(0)
    mask = keep_mask((1001, 203), p)
    assert mask.shape == (1001, 203)
    count = mask.numel()
    for lane in range(4):  # four draws share 64 bits
        kept = mask.flatten()[lane::4].double().mean().item()
        assert abs(kept - (1 - p)) < 5 * math.sqrt(p * (1 - p) / (count / 4))
    neighbours = (mask.flatten()[1:] & mask.flatten()[:-1]).double().mean().item()
    assert abs(neighbours - (1 - p) ** 2) < 5 / math.sqrt(count)


def test_one_seed_gives_one_mask() -> None:
    masks = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        masks.append(keep_mask((64, 65), 0.3))
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


def test_what_stays_is_scaled_and_alone_has_a_gradient() -> None:
    torch.manual_seed(0)
    dropout, x = Dropout(0.25), torch.rand(40, 50, requires_grad=True)
    y = dropout(x)
    stays = y != 0
    torch.testing.assert_close(y[stays], x[stays] / 0.75)
    y.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, stays.float() / 0.75)


def test_evaluation_and_p_0_change_nothing() -> None:
    x = torch.rand(7, 8)
    assert torch.equal(Dropout(0.5).eval()(x), x)
    assert torch.equal(Dropout(0.0)(x), x)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_on_average_that_without_dropout(masked: bool) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(2, 3, n, 4) for n in (5, 6, 6))
    attend = torch.tensor([True, True, False, True, True, False]).expand(2, 1, 1, 6) if masked else None
    exact = F.scaled_dot_product_attention(query, key, value, attn_mask=attend)
    torch.testing.assert_close(attention(query, key, value, attend, 0.0), exact)
    many = [x.repeat(4000, 1, 1, 1) for x in (query, key, value)]
    hidden = None if attend is None else attend.repeat(4000, 1, 1, 1)
    drawn = attention(*many, hidden, 0.2).view(4000, *exact.shape)
    error = (drawn.mean(0) - exact).abs() / (drawn.std(0) / math.sqrt(4000))
    assert error.max() < 5
    nearly = attention(query, key, value, attend, 1 / 2**16)  # hardly ever drops: the same formula
    torch.testing.assert_close(nearly, exact, atol=1e-4, rtol=1e-4)


def test_attention_with_dropout_has_gradients_of_what_stays() -> None:
    query, key, value = (torch.randn(1, 2, n, 4, dtype=torch.float64, requires_grad=True) for n in (3, 5, 5))

    def drawn(*inputs: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)  # the same mask each time
        return attention(*inputs, None, 0.3)

    assert torch.autograd.gradcheck(drawn, (query, key, value))
