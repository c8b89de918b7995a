"""The augmentation of ``wbcjax.data.augment`` in PyTorch (a batch at once) and in OpenCV (one image)."""

import cv2
import numpy as np
import torch

from wbcjax.config import AugmentConfig
from wbcjax.data.augment import _STAINS, _UNMIX, _YIQ

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def augment_torch(images: torch.Tensor, config: AugmentConfig) -> torch.Tensor:
    """Images (b, 3, h, w) in [0, 1]; random numbers come from torch's global generator."""
    b, _, height, width = images.shape

    def draw(*shape):
        return torch.rand(b, *shape) * 2 - 1

    angle, shear = torch.deg2rad(config.rotation * draw()), config.shear * draw()
    zoom, shift = 1 + config.scale * draw(), 2 * config.shift * draw(2)
    signs = torch.where(torch.rand(b, 2) < 0.5, -1.0, 1.0)
    cos, sin = torch.cos(angle), torch.sin(angle)
    linear = torch.stack([cos, cos * shear - sin, sin, sin * shear + cos], -1).reshape(b, 2, 2)
    linear = linear * (signs / zoom[:, None])[:, None, :]
    # affine_grid works in coordinates where both sides are 2 long: keep the turn a turn on oblong images.
    aspect = torch.tensor([[1.0, height / width], [width / height, 1.0]])
    theta = torch.cat([linear * aspect, shift[:, :, None]], -1)
    grid = torch.nn.functional.affine_grid(theta, images.shape, align_corners=False)
    images = torch.nn.functional.grid_sample(images, grid, align_corners=False)

    images = images * (1 + config.brightness * draw(1, 1, 1))
    mean = torch.einsum("bchw,c->bhw", images, torch.from_numpy(_LUMA)).mean((1, 2))[:, None, None, None]
    images = mean + (images - mean) * (1 + config.contrast * draw(1, 1, 1))
    turn, gain = 2 * torch.pi * config.hue * draw(), 1 + config.saturation * draw()
    chroma = torch.zeros(b, 3, 3)
    chroma[:, 0, 0] = 1
    chroma[:, 1, 1] = chroma[:, 2, 2] = gain * torch.cos(turn)
    chroma[:, 2, 1] = gain * torch.sin(turn)
    chroma[:, 1, 2] = -chroma[:, 2, 1]
    yiq = torch.from_numpy(_YIQ)
    images = torch.einsum("bij,bjhw->bihw", torch.linalg.inv(yiq) @ chroma @ yiq, images)

    density = -torch.log(images.clamp(1 / 255, 1))
    gains = 1 + config.stain * torch.randn(b, 3)
    mix = torch.from_numpy(_UNMIX) @ (gains[:, :, None] * torch.from_numpy(_STAINS))
    return torch.exp(-torch.einsum("bjhw,bji->bihw", density, mix)).clamp(0, 1)


def augment_opencv(rng: np.random.Generator, image: np.ndarray, config: AugmentConfig) -> np.ndarray:
    """One float32 image (h, w, 3) in [0, 1]."""
    height, width = image.shape[:2]
    angle, shear, zoom, shift_x, shift_y, bright, contrast, saturation, hue = rng.uniform(-1, 1, 9)
    turn, zoom = np.deg2rad(config.rotation) * angle, 1 + config.scale * zoom
    linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    linear = linear @ [[1, config.shear * shear], [0, 1]] @ np.diag(np.where(rng.random(2) < 0.5, -1, 1)) / zoom
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    offset = centre + config.shift * np.array([shift_x * width, shift_y * height]) - linear @ centre
    matrix = np.concatenate([linear, offset[:, None]], 1)
    image = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)

    image = image * np.float32(1 + config.brightness * bright)
    mean = (image @ _LUMA).mean()
    image = mean + (image - mean) * np.float32(1 + config.contrast * contrast)
    turn, gain = 2 * np.pi * config.hue * hue, 1 + config.saturation * saturation
    c, s = gain * np.cos(turn), gain * np.sin(turn)
    color = np.linalg.inv(_YIQ) @ np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ _YIQ
    image = cv2.transform(image, color.astype(np.float32))

    density = -np.log(np.clip(image, 1 / 255, 1))
    gains = (1 + config.stain * rng.standard_normal(3)).astype(np.float32)
    return np.clip(np.exp(-cv2.transform(density, (_UNMIX * gains @ _STAINS).T)), 0, 1)
