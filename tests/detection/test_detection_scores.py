"""Scores: laws that hold for every detector, slow twins, and hand-made cases."""

import math
from dataclasses import fields

import pytest
import torch
from detection_kit import Conv, Headed, built, given_features, images, planted
from torch.nn import functional

from mithridate.core.errors import Misuse
from mithridate.detection._base import LEAST, principal
from mithridate.detection.activation_clustering import ActivationClustering
from mithridate.detection.beatrix import deviations, gram_sums
from mithridate.detection.deep_knn import DeepKnn
from mithridate.detection.extract import extract, reduced_maps
from mithridate.detection.loss import Loss
from mithridate.detection.names import DEFAULT, DETECTORS
from mithridate.detection.spectral import SpectralSignatures
from mithridate.detection.spectre import Spectre, entropy_scores, whitened
from mithridate.detection.strip import Strip

LATENT = [SpectralSignatures(), ActivationClustering(), Spectre(), DeepKnn(k=10)]
"""Detectors that look at nothing but the penultimate features."""


def rotation(e, seed=3):
    gen = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(e, e, generator=gen, dtype=torch.float64)).Q


def test_there_are_seven_and_the_default_ones_are_among_them():
    assert len(DETECTORS.names()) >= 7
    assert set(DEFAULT) <= set(DETECTORS.names())
    for entry in DETECTORS.entries():
        assert entry.summary, entry.name
        assert entry.source, entry.name


@pytest.mark.parametrize("detector", LATENT, ids=lambda d: type(d).__name__)
def test_a_rotation_of_the_features_changes_nothing(detector):
    features, labels, _ = planted()
    before = detector.scores(given_features(features, labels))
    after = detector.scores(given_features(features @ rotation(features.shape[1]), labels))
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("detector", LATENT[:3], ids=lambda d: type(d).__name__)
def test_a_constant_added_to_the_features_changes_nothing(detector):
    features, labels, _ = planted()
    before = detector.scores(given_features(features, labels))
    after = detector.scores(given_features(features + 3.0, labels))
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3)


def test_whitening_forgets_any_affine_map():
    features, labels, _ = planted(shift=4.0)
    points = features[labels == 0]
    gen = torch.Generator().manual_seed(1)
    warp = torch.randn(12, 12, generator=gen, dtype=torch.float64) + 3 * torch.eye(12)
    before, after = whitened(points).square().sum(1), whitened(points @ warp + 5).square().sum(1)
    torch.testing.assert_close(after, before, rtol=1e-2, atol=1e-2)


def test_whitening_is_not_moved_by_a_far_group():
    gen = torch.Generator().manual_seed(0)
    points = torch.randn(200, 4, generator=gen, dtype=torch.float64)
    far = points.clone()
    far[:40] = 100 + 0.1 * far[:40]
    norms = whitened(far).square().sum(1)
    assert float(norms[:40].min()) > 20 * float(norms[40:].max())


@pytest.mark.parametrize("name", DETECTORS.names())
def test_a_permutation_of_the_rows_permutes_the_scores_and_twice_is_the_same(name):
    data, model = images(), built(Conv)
    detector = DETECTORS.load(name)()
    before = detector.scores(extract(model, data, batch=50), seed=5)
    again = detector.scores(extract(model, data, batch=50), seed=5)
    assert torch.equal(before, again)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(2))
    after = detector.scores(extract(model, data.select(order), batch=50), seed=5)
    torch.testing.assert_close(after, before[order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", DETECTORS.names())
def test_scores_do_not_depend_on_the_batch_and_leave_the_model_alone(name):
    data, model = images(), built(Conv).train()
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    detector = DETECTORS.load(name)()
    few, many = (detector.scores(extract(model, data, batch=batch)) for batch in (7, 512))
    torch.testing.assert_close(few, many, rtol=1e-4, atol=1e-5)
    assert model.training
    assert all(not module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("detector", LATENT[:3], ids=lambda d: type(d).__name__)
@pytest.mark.parametrize("seed", range(4))
def test_a_planted_group_has_the_highest_scores_of_its_class(detector, seed):
    features, labels, bad = planted(seed)
    scores = detector.scores(given_features(features, labels))
    own = labels == 0
    top = scores[own].topk(8).indices
    assert int(bad[own][top].sum()) >= 7


def test_spectral_is_the_squared_projection_on_numpys_first_direction():
    features, labels, _ = planted(n=20)
    given = given_features(features, labels)
    found = SpectralSignatures().scores(given)
    for label in given.present:
        rows = given.features[labels == label].double()
        centred = rows - sum(rows) / len(rows)
        direction = torch.linalg.svd(centred).Vh[0]
        slow = [float(row @ direction) ** 2 for row in centred]
        torch.testing.assert_close(found[labels == label], torch.tensor(slow, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(30, 5), (5, 30), (9, 9)])
def test_principal_coordinates_keep_distances_and_singular_values(shape):
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    centred = rows - rows.mean(0)
    points, spread = principal(centred, 1000)
    torch.testing.assert_close(points @ points.T, centred @ centred.T)
    kept = torch.linalg.svdvals(centred)[: len(spread)]
    torch.testing.assert_close(spread, kept)
    assert principal(torch.zeros(4, 3, dtype=torch.float64), 2)[0].shape == (4, 0)


def test_the_entropy_score_by_hand_and_at_its_two_ends():
    points = torch.tensor([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
    r, norms = 2, [4.0, 4.0, 1.0, 1.0]
    factor = r * (1 - 2 / 18) ** 3 / 1.0  # torch's median of 1, 1, 4, 4 is the lower one
    variances = [factor * 2.0, factor * 0.5]
    alpha = 4.0
    weights = [math.exp(alpha * (v - 1) / (variances[0] - 1)) for v in variances]
    slow = [factor * (x * x * weights[0] + y * y * weights[1]) / sum(weights) for x, y in points.tolist()]
    torch.testing.assert_close(entropy_scores(points, alpha), torch.tensor(slow, dtype=torch.float64))
    torch.testing.assert_close(entropy_scores(points, 0.0), factor * torch.tensor(norms, dtype=torch.float64) / r)
    torch.testing.assert_close(entropy_scores(points, 1000.0), factor * points[:, 0].square())


def test_clusters_the_smaller_one_is_positive():
    features, labels, bad = planted(shift=20.0)
    scores = ActivationClustering().scores(given_features(features, labels))
    own = labels == 0
    assert torch.equal(scores[own] > 0, bad[own])


def test_gram_sums_are_those_of_the_whole_matrices():
    maps = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slow = []
    for image in maps.tolist():
        for_image = []
        for order in (1, 2, 3):
            for a in image:
                total = sum(x**order * y**order for b in image for x, y in zip(a, b, strict=True))
                for_image.append(math.copysign(abs(total) ** (1 / order), total))
        slow.append(for_image)
    torch.testing.assert_close(gram_sums(maps, 3), torch.tensor(slow, dtype=torch.float64))


def test_gram_sums_do_not_overflow():
    assert bool(gram_sums(torch.full((2, 8, 9), 1e12), 9).isfinite().all())
    assert torch.equal(gram_sums(torch.zeros(2, 8, 9), 9), torch.zeros(2, 72))


def test_deviations_by_hand():
    values = torch.tensor([[1.0, 7.0], [2.0, 7.0], [3.0, 7.0], [4.0, 7.0], [50.0, 9.0]], dtype=torch.float64)
    # first column: median 3, MAD 1; the second has no scale and is left out
    slow = [max(0.0, abs(v - 3) / 1.4826 - 1) for v in (1, 2, 3, 4, 50)]
    torch.testing.assert_close(deviations(values, 1.0), torch.tensor(slow, dtype=torch.float64))


def test_maps_are_those_before_the_pooling_and_features_without_any():
    data, model = images(n=20), built(Conv)
    given = extract(model, data)
    rows = torch.tensor([3, 1, 17])
    maps = reduced_maps(given, rows, lambda block: block)
    assert maps.shape == (3, 6, 16)
    with torch.no_grad():
        torch.testing.assert_close(maps, model.conv(data.images.gather(rows).float() / 255).flatten(2))
    flat = extract(built(lambda: Headed(16, 4)), data)
    assert torch.equal(reduced_maps(flat, rows, lambda block: block), flat.features[rows][:, :, None])


def test_strip_is_the_mean_entropy_over_the_overlays():
    data, model = images(n=30), built(Conv)
    given = extract(model, data)
    detector = Strip(overlays=3)
    chosen = detector._chosen(data.images.row_hashes(), 0)
    x = data.images.gather(torch.arange(30)).float() / 255
    for row in (0, 29):
        total = 0.0
        for other in chosen:
            with torch.no_grad():
                p = model((x[row : row + 1] + x[other]).clamp(max=1)).softmax(1)[0].tolist()
            total += sum(q * math.log(q) for q in p)
        assert float(detector.scores(given)[row]) == pytest.approx(total / 3, abs=1e-5)


def test_neighbours_counted_one_by_one():
    features, labels, _ = planted(n=12, classes=3)
    given = given_features(features, labels)
    found = DeepKnn(k=5).scores(given)
    unit = functional.normalize(given.features, dim=1)
    for row in range(len(labels)):
        others = sorted((float((unit[row] - unit[o]).norm()), o) for o in range(len(labels)) if o != row)[:5]
        assert float(found[row]) == pytest.approx(sum(int(labels[o]) != int(labels[row]) for _, o in others) / 5)


def test_a_wrong_label_is_found_among_its_neighbours():
    features, labels, _ = planted(poisons=0)
    labels = labels.clone()
    labels[7] = (labels[7] + 1) % 6
    for_all = DeepKnn(k=20).scores(given_features(features, labels))
    assert int(for_all.argmax()) == 7
    assert float(for_all[7]) == 1.0


def test_losses_have_the_sign_of_their_tail():
    data, model = images(), built(Conv)
    given = extract(model, data)
    slow = -given.logits.double().log_softmax(1)[torch.arange(len(data)), data.labels]
    torch.testing.assert_close(Loss().scores(given), slow, rtol=1e-5, atol=1e-6)
    assert torch.equal(Loss(tail="low").scores(given), -Loss().scores(given))


@pytest.mark.parametrize("detector", LATENT, ids=lambda d: type(d).__name__)
def test_equal_features_and_small_classes_score_zero(detector):
    labels = torch.tensor([0] * 20 + [1] * (LEAST - 1))
    scores = detector.scores(given_features(torch.ones(len(labels), 3), labels))
    assert bool(scores.isfinite().all())
    if detector.per_class:
        assert torch.equal(scores, torch.zeros(len(labels), dtype=torch.float64))


@pytest.mark.parametrize("name", DETECTORS.names())
def test_options_out_of_range_are_refused(name):
    method = DETECTORS.load(name)
    for field in fields(method):
        with pytest.raises(Misuse, match=field.name):
            method(**{field.name: field.metadata["within"].bad()})
