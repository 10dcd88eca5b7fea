"""Pictures as codes: VQ-VAE and its hierarchy."""

from audiovq.image.codec import EncodedImage, ImageCodec

__all__ = ["EncodedImage", "ImageCodec"]
