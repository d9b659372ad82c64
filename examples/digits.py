"""A small trained network that drift visibly breaks, for the README and the other examples.

    python examples/digits.py

The data are the 1,797 handwritten digits of scikit-learn (8 x 8 pixels, no download). The network
has eleven layers without normalisation, so that the errors of its layers add up. Training takes
some seconds.
"""

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

_x, _y = load_digits(return_X_y=True)
_order = torch.randperm(len(_x), generator=torch.Generator().manual_seed(0))
images = torch.tensor(_x, dtype=torch.float32)[_order] / 16
labels = torch.tensor(_y)[_order]
training, test = TensorDataset(images[:1000], labels[:1000]), (images[1000:], labels[1000:])
batches = DataLoader(training, 25, shuffle=True, generator=torch.Generator().manual_seed(0))


def loss(network: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Return the cross-entropy of a mini-batch."""
    return nn.functional.cross_entropy(network(batch[0]), batch[1])


@torch.no_grad()
def accuracy(network: nn.Module) -> float:
    """Return the share of the 797 test images that a network gets right."""
    return float((network(test[0]).argmax(-1) == test[1]).float().mean())


def trained(layers: int = 10, width: int = 64, epochs: int = 30) -> nn.Sequential:
    """Return a trained network in eval mode: in double precision, the same on all machines."""
    torch.manual_seed(0)
    parts = [part for _ in range(layers) for part in (nn.Linear(width, width), nn.ReLU())]
    parts[0] = nn.Linear(64, width)
    network = nn.Sequential(*parts, nn.Linear(width, 10)).double()
    for layer in network:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    order = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for x, y in DataLoader(training, 25, shuffle=True, generator=order):
            optimizer.zero_grad()
            loss(network, (x.double(), y)).backward()
            optimizer.step()
    return network.float().eval()


if __name__ == "__main__":
    print(f"digital: {accuracy(trained()):.1%} of the test images")
