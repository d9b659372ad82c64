"""mlp: handwritten digits with a deep and narrow network, all layers analog.

It is the task of `aimc-bridge demo`. The network is one on which direct conversion visibly loses
and hardware-aware training visibly helps, at a cost of seconds: docs/demo.md says how it was
chosen. Errors of one layer pass through all layers behind it, and there is neither a normalisation
nor a shortcut that would take them back.
"""

from pathlib import Path

from torch import Tensor, nn

from aimc_bridge.errors import UsageError
from benchmarks.tasks.base import DigitalRecipe, Task
from benchmarks.tasks.image_task import ImageTask
from benchmarks.tasks.images import Images, digits
from benchmarks.tasks.plan import DEFAULT, SMALL, LadderSizes, Plan
from benchmarks.tasks.registry import register

DEPTH, WIDTH = 10, 64
PLANS = {
    "embedded": Plan(
        why=SMALL,
        overrides={"batch_size": 25, "epochs": 10},
        chips=10,
        slow_chips=3,
    ),
}
DIGITAL = DigitalRecipe(epochs=30, batch_size=25, learning_rate=1e-3)


class DeepNarrow(nn.Module):
    """Hidden layers of one width with ReLU between them, and a classifier."""

    def __init__(self, inputs: int, depth: int, width: int, n_classes: int) -> None:
        """Build the model with random weights, after He et al. 2015.

        Args:
            inputs: Pixels of an image, in all channels.
            depth: The number of hidden layers.
            width: Their width.
            n_classes: The number of classes.
        """
        super().__init__()
        widths = [inputs, *[width] * depth]
        self.hidden = nn.ModuleList(
            nn.Linear(before, after) for before, after in zip(widths, widths[1:], strict=False)
        )
        self.fc = nn.Linear(width, n_classes)
        for layer in self.hidden:
            assert isinstance(layer, nn.Linear)
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        nn.init.kaiming_normal_(self.fc.weight, nonlinearity="linear")  # no ReLU follows it
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores (n, n_classes) of images, whose pixels are one vector each."""
        x = images.flatten(1)
        for layer in self.hidden:
            x = layer(x).relu()
        scores: Tensor = self.fc(x)
        return scores


@register
class DigitsTask(ImageTask):
    """The deep and narrow network on scikit-learn's digits; a run has it only if it is named."""

    name = "mlp"
    recipe = DEFAULT
    only_by_name = True
    option_types = {"depth": int, "width": int}
    plans = PLANS
    ladder = LadderSizes(subset=300, probe_samples=128, redrawn=25)

    def __init__(self, images: Images, depth: int, width: int) -> None:
        """Prepare the data.

        Args:
            images: The tensors; see `images.Images`.
            depth: The number of hidden layers.
            width: Their width.
        """
        self.depth, self.width = depth, width
        super().__init__(
            images,
            "digits (8 x 8)",
            f"MLP {depth}x{width}",
            DIGITAL,
            n_validation=len(images["train_labels"]) // 7,
            shift=0,
            flip=False,
        )

    @classmethod
    def make(
        cls, profile: str, folder: Path | None, depth: int = DEPTH, width: int = WIDTH
    ) -> Task:
        """Make the task of a profile.

        Args:
            profile: A key of PLANS.
            folder: Not used: the data come with scikit-learn.
            depth: The number of hidden layers.
            width: Their width.

        Raises:
            UsageError: For a value that is not allowed.
        """
        for name, value in (("depth", depth), ("width", width)):
            if value < 1:
                raise UsageError(f"option {name}={value}; allowed: 1 or more")
        return cls(digits(), depth, width)

    def network(self, channels: int) -> nn.Module:
        """Return a new network."""
        pixels = channels * self.splits["train"][0][0, 0].numel()
        return DeepNarrow(pixels, self.depth, self.width, self.n_classes)
