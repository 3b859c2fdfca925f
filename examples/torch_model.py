"""A PyTorch model as the victim: ``mifsim simulate study.toml --plugin examples/torch_model.py`` with, in the study::

    [victim]
    plugin = "torch-digits"
    arguments = { weights = "/path/to/digits.pt" }

``python examples/torch_model.py digits.pt`` trains the model on the private digits, and writes its weights.
"""

import sys

import numpy as np
import torch
from torch import nn

import mifsim


def network(channels, classes):
    """Return a small convolutional network, which returns logits."""
    layers = [nn.Conv2d(channels, 8, 5, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 5, stride=2), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(classes))


@mifsim.register("predictors", "torch-digits")
def torch_digits(shape, classes, weights):
    """Return a function from images (n, H, W, channels) in [0, 1] to confidences (n, classes)."""
    model = network(shape[2], classes)
    model.load_state_dict(torch.load(weights, weights_only=True))
    model.eval()

    def predict(images):
        with torch.no_grad():
            inputs = torch.from_numpy(images).permute(0, 3, 1, 2)  # PyTorch has the channels first
            return torch.softmax(model(inputs), dim=1).numpy()

    return predict


if __name__ == "__main__":
    from mifsim.data import DataConfig

    private = mifsim.load_data(DataConfig(set="mnist-5k")).subset("private")
    inputs, labels = (
        torch.from_numpy(private.images(np.arange(len(private))))[:, None],
        torch.from_numpy(private.labels),
    )
    torch.manual_seed(0)
    model = network(1, 10)
    model(inputs[:1])
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(5):
        for batch in torch.randperm(len(inputs)).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[batch]), labels[batch]).backward()
            optimizer.step()
    torch.save(model.state_dict(), sys.argv[1])
