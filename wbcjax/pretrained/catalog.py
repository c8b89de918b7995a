"""Classifiers that others trained on ImageNet: where each is published, how the file is checked, what network it is.

torchvision's file names carry the first eight digits of their SHA-256; Keras' sources hold MD5 sums; timm's files lie
on the Hugging Face hub, or on GitHub with eight digits of the SHA-256 in the name.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

CLASSES = 1000
"""Of ImageNet's challenge."""


@dataclass(frozen=True)
class Entry:
    """One published file."""

    name: str
    """Publisher and model, as in ``torchvision/resnet50``."""
    url: str
    checksum: str
    """``sha256:`` or ``md5:`` and hexadecimal digits, all or the first of them."""
    model: Mapping[str, Any] = field(hash=False)
    """Fields of ``ModelConfig``: which network, and what its weights want."""
    licence: str
    """What the publisher says; the terms of ImageNet may apply too."""
    citation: str
    head: bool = True
    """Whether the layer of the 1000 classes is in it."""
    copies: tuple[str, ...] = ()
    """Checksums of files with the same arrays, written by another version of the library."""

    @property
    def publisher(self) -> str:
        """``torchvision``, ``keras`` or ``timm``: whose names the arrays have."""
        return self.name.partition("/")[0]

    @property
    def file(self) -> str:
        """Name of the file in the cache: the publisher's, where it tells the model."""
        path = PurePosixPath(urlsplit(self.url).path)
        return path.name if path.stem != "model" else f"{self.name.partition('/')[2]}{path.suffix}"

    def matches(self, digests: Mapping[str, str], *, copies: bool = False) -> bool:
        """Whether ``file_digests`` of a file are those of this one, or of one of its copies."""
        known = (self.checksum, *self.copies) if copies else (self.checksum,)
        return any(digests[kind].startswith(digits) for kind, _, digits in (c.partition(":") for c in known))


def file_digests(path: Path) -> dict[str, str]:
    """Hexadecimal SHA-256 and MD5 of a file, in one pass."""
    sums = {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            for digest in sums.values():
                digest.update(block)
    return {kind: digest.hexdigest() for kind, digest in sums.items()}


_PAPERS = {
    "vgg": "Simonyan and Zisserman, Very deep convolutional networks for large-scale image recognition, ICLR 2015",
    "resnet": "He, Zhang, Ren and Sun, Deep residual learning for image recognition, CVPR 2016",
    "inception": "Szegedy et al., Rethinking the Inception architecture for computer vision, CVPR 2016",
}


def _paper(network: str) -> str:
    return next(paper for start, paper in _PAPERS.items() if network.startswith(start))


def network_fields(network: str, flavour: str) -> dict[str, Any]:
    """Fields of ``ModelConfig`` for a network as published: size, head, and how images are prepared.

    Args:
      flavour: ``torchvision``, which timm follows, or ``keras``.
    """
    inception = network == "inception_v3"
    caffe = flavour == "keras" and not inception
    return {"name": network, "flavour": flavour, "norm": "batch",
            "image_size": (299, 299) if inception else (224, 224),
            "pool": "dense" if network.startswith("vgg") else "avg",
            # torchvision feeds InceptionV3, with transform_input=True, (x - mean) / std · std / 0.5 + (mean - 0.5) /
            # 0.5, which is 2x - 1: what Keras and timm do at once.
            "preprocessing": "symmetric" if inception else "caffe" if caffe else "imagenet"}


def _torchvision(file: str, *, version: str = "") -> Entry:
    stem, digits = file.removesuffix(".pth").rsplit("-", 1)
    network = stem.removesuffix("_google")
    return Entry(f"torchvision/{network}{version}", f"https://download.pytorch.org/models/{file}", f"sha256:{digits}",
                 network_fields(network, "torchvision"), "BSD-3-Clause", _paper(network))


def _keras(network: str, md5: str, licence: str, *, top: bool, copies: tuple[str, ...] = ()) -> Entry:
    notop = "" if top else "_notop"
    folder = network.removesuffix("50")
    url = (f"https://storage.googleapis.com/tensorflow/keras-applications/{folder}/{network}_weights_tf_dim_ordering_"
           f"tf_kernels{notop}.h5")
    model = network_fields(network, "keras")
    if not top:
        model["pool"] = "avg"
    return Entry(f"keras/{network}{notop}", url, f"md5:{md5}", model, licence, _paper(network), top, copies)


def _timm(model: str, checksum: str, licence: str, url: str | None = None) -> Entry:
    network = model.partition(".")[0]
    return Entry(f"timm/{model}", url or f"https://huggingface.co/timm/{model}/resolve/main/model.safetensors",
                 f"sha256:{checksum}", network_fields(network, "torchvision"), licence, _paper(network))


_VGG_LICENCE = "CC BY 4.0 (Visual Geometry Group, Oxford)"
_RESNET_LICENCE = "MIT (Kaiming He)"
_KERAS_LICENCE = "Apache-2.0"

CATALOG: dict[str, Entry] = {entry.name: entry for entry in (
    _torchvision("vgg16-397923af.pth"),
    _torchvision("vgg16_bn-6c64b313.pth"),
    _torchvision("resnet18-f37072fd.pth"),
    _torchvision("resnet34-b627a593.pth"),
    _torchvision("resnet50-0676ba61.pth"),
    _torchvision("resnet50-11ad3fa6.pth", version="_v2"),
    _torchvision("resnet101-63fe2227.pth"),
    _torchvision("resnet101-cd907fc2.pth", version="_v2"),
    _torchvision("inception_v3_google-0cc3c7bd.pth"),
    _keras("vgg16", "64373286793e3c8b2b4e3219cbf3544b", _VGG_LICENCE, top=True),
    _keras("vgg16", "6d6bbae143d832006294945121d1f1fc", _VGG_LICENCE, top=False,
           copies=("sha256:aac666936e9fc647bbdbfb7a5f4533564bf11f132da5b01a8dc5b82d40fad257",)),
    _keras("resnet50", "2cb95161c43110f7111970584f804107", _RESNET_LICENCE, top=True),
    _keras("resnet50", "4d473c1dd8becc155b73f8504c6f6626", _RESNET_LICENCE, top=False),
    _keras("inception_v3", "9a0d58056eeedaa3f26cb7ebd46da564", _KERAS_LICENCE, top=True),
    _keras("inception_v3", "bcbd6486424b2319ff4ef7d526e38f63", _KERAS_LICENCE, top=False),
    _timm("vgg16.tv_in1k", "57b026918159a6bf9faf8405c3a551903768e7138989d9c6224a14227203fad8", "BSD-3-Clause"),
    _timm("resnet18.a1_in1k", "80c49dee3da4822c009c5a7fe591e9223c5a2cfcf95a4067ca4dfb5a7b89c612", "Apache-2.0"),
    _timm("resnet34.a1_in1k", "829a220f9529d2b1ffdc8719d3273463001e0daf411eaf1916865d9db62c0ed2", "Apache-2.0"),
    _timm("resnet50.a1_in1k", "773525d5821de224f8f30c33377b7a795d7863e08522698200d3217d3f2a41bb", "Apache-2.0"),
    _timm("resnet101.a1h_in1k", "36d3f2aa", "Apache-2.0",
          "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-rsb-weights/"
          "resnet101_a1h-36d3f2aa.pth"),
    _timm("inception_v3.tv_in1k", "9c452c63a67fd03a38a78c401ba12d4be0e926df63c93403de3a29f6df20fefb", "Apache-2.0"),
)}
"""By name."""


def identify(digests: Mapping[str, str]) -> Entry | None:
    """The published file of these ``file_digests``, whatever it is called here."""
    return next((entry for entry in CATALOG.values() if entry.matches(digests, copies=True)), None)
