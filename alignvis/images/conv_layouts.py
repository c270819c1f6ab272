"""PyTorch files of the convolutional encoders: their names are already ours; classifiers and counters go."""

from math import prod

from alignvis.images.convnext import ConvNeXt
from alignvis.images.levit import LeViT
from alignvis.images.renaming import Table, Tensors, rename
from alignvis.images.resnet import ClipResNet, ResNet
from alignvis.images.vgg import VGG

COUNTERS: Table = [(r".*\bnum_batches_tracked", "")]  # by each batch normalisation
TABLES: dict[type, Table] = {
    ResNet: [(r"fc\..*", "")],
    ClipResNet: [],
    ConvNeXt: [(r"head\.fc\..*", "")],
    # torchvision's names of the same layers, which are matrices there
    VGG: [
        (r"head\.fc\..*|classifier\.6\..*", ""),
        (r"classifier\.0\.(\w+)", r"pre_logits.fc1.\1"),
        (r"classifier\.3\.(\w+)", r"pre_logits.fc2.\1"),
    ],
    LeViT: [(r"head\.linear\..*|head_dist\..*", "")],
}
HEAD_NORM: Table = [(r"head\.bn\..*", "")]  # of LeViT


def from_pytorch(
    tensors: Tensors, architecture: ResNet | ClipResNet | ConvNeXt | VGG | LeViT, expected: dict[str, tuple[int, ...]]
) -> Tensors:
    """Drop what is not needed, and give fully connected layers the shape they have here.

    Args:
        expected: the shapes of the parameters of the architecture.

    Returns:
        The tensors under our names; those that fit no name keep theirs.
    """
    table = [*COUNTERS, *TABLES[type(architecture)]]
    if isinstance(architecture, LeViT) and architecture.output == "mean":
        table += HEAD_NORM
    renamed = rename(table, tensors)
    if isinstance(architecture, VGG | LeViT):
        # A matrix (out, in) and a convolution that reads its whole input (out, channels, rows, columns) hold the same
        # numbers in the same order; torchvision and timm's "conv" models take one or the other.
        for name, tensor in renamed.items():
            shape = expected.get(name, ())
            if {tensor.ndim, len(shape)} == {2, 4} and tensor.shape[:1] == shape[:1] and tensor.numel() == prod(shape):
                renamed[name] = tensor.reshape(shape)
    return renamed
