"""A frozen base in four bits under LoRA adapters: QLoRA's NormalFloat, NF4 (Dettmers et al. 2023, arXiv:2305.14314).

A block of 64 weights is its largest absolute value m, a float32, and for each weight 4 bits that name one of 16 values
q in [−1, 1]; the weight that is computed with is q·m. That is 4.5 bits a weight. bitsandbytes quantises, and makes
weights of it again.

The product is made here. The layers of bitsandbytes choose a kernel by the number of tokens, by whether there is a
gradient and by the processor, so that a response would be drawn from other log-probs than it is scored with. Here each
pass makes the layer's weights again, which costs one more reading of them; beside them, only those of one layer exist
at a time, in the backward pass too.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear
from transformers.pytorch_utils import Conv1D

from sims.core.spec import SpecError

from .quiet import quiet_bitsandbytes

BLOCK = 64  # weights that share a largest absolute value


class NF4Linear(nn.Linear):
    """y = x·Wᵀ + b with W in NF4, which is not trained; b as it was.

    weight: (O·I / 2,) of two numbers of 4 bits each, row after row; largest: (O·I / 64,), of each block; both rounded
    up.
    """

    def __init__(self, rows: int, columns: int, bias: Tensor | None, device: torch.device) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = columns, rows
        many, blocks = -(-rows * columns // 2), -(-rows * columns // BLOCK)
        self.weight = nn.Parameter(torch.empty(many, dtype=torch.uint8, device=device), requires_grad=False)
        self.largest = nn.Parameter(torch.empty(blocks, device=device), requires_grad=False)
        own = None if bias is None else nn.Parameter(bias.detach().to(device), requires_grad=False)
        self.register_parameter("bias", own)

    @classmethod
    def of(cls, layer: nn.Module, device: torch.device) -> NF4Linear:
        """A linear layer's weights, quantised on `device`, in whose memory they then are. layer: nn.Linear, or the
        transposed Conv1D of transformers."""
        weight: Tensor = layer.weight.detach()  # type: ignore[assignment, operator]
        weight = (weight.t() if isinstance(layer, Conv1D) else weight).to(device)
        rows, columns = weight.shape
        made = cls(rows, columns, layer.bias, device)  # type: ignore[arg-type]
        if device.type != "meta":
            # float64 is more than it takes.
            values = weight if weight.dtype in (torch.bfloat16, torch.float16) else weight.float()
            stored, state = _library().quantize_4bit(values.contiguous(), blocksize=BLOCK, quant_type="nf4")
            made.weight.data, made.largest.data = stored.flatten(), state.absmax.float()
        return made

    def weights(self, dtype: torch.dtype) -> Tensor:
        """W as it is computed with, (O, I)."""
        library = _library()
        state = library.QuantState(
            absmax=self.largest,
            shape=torch.Size([self.out_features, self.in_features]),
            dtype=torch.float32 if dtype == torch.float64 else dtype,
            blocksize=BLOCK,
            quant_type="nf4",
        )
        return library.dequantize_4bit(self.weight.unsqueeze(-1), state).to(dtype)  # type: ignore[no-any-return]

    def forward(self, input: Tensor) -> Tensor:
        """input: (..., I); returns (..., O), under autocast in its precision."""
        kind = input.device.type
        if torch.is_autocast_enabled(kind):
            input = input.to(torch.get_autocast_dtype(kind))
        made: Tensor = _Product.apply(input, self)
        return made if self.bias is None else made + self.bias.to(made.dtype)


class _Product(torch.autograd.Function):
    """x·Wᵀ, which keeps the layer for the gradient x̄ = ȳ·W, and not its weights. No gradient of W, none of second
    order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: NF4Linear) -> Tensor:
        ctx.layer = layer
        return linear(x, layer.weights(x.dtype))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient @ ctx.layer.weights(gradient.dtype), None


def quantise(model: Any, device: torch.device) -> nn.Module:
    """A model of transformers on its device, every linear layer but the head in NF4, one after another. Embeddings,
    norms, biases, the head, and weights that are not those of linear layers (experts of some mixtures) stay."""
    head = model.get_output_embeddings()
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear | Conv1D) and layer is not head:
                setattr(parent, name, NF4Linear.of(layer, device))
    return model.to(device)  # type: ignore[no-any-return]


def restored(model: nn.Module) -> nn.Module:
    """A model whose quantised layers are linear layers again, with the weights that they computed with: what adapters
    that were trained over them can be added to."""
    like = next(p.dtype for p in model.parameters() if p.is_floating_point())
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, NF4Linear):
                plain = nn.Linear(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
                plain.weight = nn.Parameter(layer.weights(like), requires_grad=False)
                plain.bias = layer.bias
                setattr(parent, name, plain)
    return model


def parameter_count(model: nn.Module) -> int:
    """Parameters of a model, a quantised weight as one."""
    hidden = sum(
        x.in_features * x.out_features - x.weight.numel() - x.largest.numel()
        for x in model.modules()
        if isinstance(x, NF4Linear)
    )
    return hidden + sum(p.numel() for p in model.parameters())


def largest_layer(model: nn.Module) -> int:
    """Weights of the largest quantised layer, which exist whole while it computes; 0 where none is quantised."""
    return max((x.in_features * x.out_features for x in model.modules() if isinstance(x, NF4Linear)), default=0)


def check_library() -> None:
    """SpecError where bitsandbytes is not installed."""
    _library()


def _library() -> Any:
    try:
        with quiet_bitsandbytes():
            from bitsandbytes import functional
    except ImportError as error:
        raise SpecError("base_precision", "nf4", "needs the library bitsandbytes: pip install bitsandbytes") from error
    return functional
