"""Which teacher swaps a pair, which swaps are dropped and why, and what the cache computes once."""

import numpy as np
import pytest
import torch
from helpers.pseudo_gt import SIZE, Mixer, draw_people, experiments, facts, mixers, run

from distill.pseudo_gt import generate as pseudo_gt
from distill.pseudo_gt.cache import LruCache
from distill.pseudo_gt.generate import draw_teacher
from distill.pseudo_gt.quality import Batch, Candidates, choose
from distill.pseudo_gt.shards import Shards
from distill.schema import Quality, Teacher
from swapcore.images import DataError, to_float
from teachers import NoFace


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw_people(tmp_path_factory.mktemp("data"))


@pytest.fixture
def experiment(drawn, tmp_path, monkeypatch):
    return experiments(drawn, tmp_path, monkeypatch)


def test_shares_are_kept_and_depend_on_seed_and_pair_alone(experiment):
    chosen = [draw_teacher((3.0, 1.0), 5, n) for n in range(4000)]
    assert np.mean(chosen) == pytest.approx(0.25, abs=0.03)
    exp = experiment(teachers=(Teacher("exact", share=3), Teacher("mixer", label="half")))
    index, numbers, said = run(exp)
    made = facts(exp)
    assert {f["pair"] for f in made} == set(range(36))
    assert all(f["teacher"] == ("exact", "half")[draw_teacher((3, 1), 0, f["pair"])] for f in made)
    counts = {label: sum(f["teacher"] == label for f in made) for label in ("exact", "half")}
    assert {k: v["kept"] for k, v in index["teachers"].items()} == counts and min(counts.values()) > 0
    assert index["teachers"]["half"]["weight_hash"] == Mixer().weight_hash
    assert numbers["pseudo_gt/half/kept"] == counts["half"] and numbers["pseudo_gt/swaps_per_second"] > 0
    assert "36 swaps kept; mean cosine" in said and "    half: " in said


def test_best_of_keeps_the_better_swap_by_cosine_and_pose(experiment):
    exp = experiment(teachers=mixers(0.0, 1.0), choose="best_of")
    index, _, said = run(exp)
    assert index["teachers"]["m1.0"]["kept"] == 36 and index["teachers"]["m0.0"]["kept"] == 0
    assert index["teachers"]["m0.0"]["swapped"] == 36 and "none of its swaps was the best" in said
    first = facts(exp)[0]
    assert first["scores"]["m1.0"] == pytest.approx(1, abs=1e-3) and first["scores"]["m0.0"] < 0.9
    assert first["quality"]["id_similarity"] == pytest.approx(1, abs=1e-3)
    strict = experiment("strict", Quality(pose="synthetic_pose", cosine_per_degree=10.0), teachers=mixers(0.0, 1.0),
                        choose="best_of")  # fmt: skip
    index, _, _ = run(strict)
    assert index["teachers"]["m0.0"]["kept"] > 30, "a copy of the target has its pose"
    first = next(f for f in facts(strict) if f["teacher"] == "m0.0")
    assert first["quality"]["pose_error_deg"] == pytest.approx(0, abs=1e-2)


def test_thresholds_drop_and_count_by_reason(experiment):
    quality = Quality(pose="synthetic_pose", min_id_similarity=0.6, max_pose_error_deg=8.0)
    exp = experiment("picky", quality, teachers=mixers(0.5))
    index, numbers, said = run(exp)
    plain = experiment("plain", Quality(pose="synthetic_pose"), teachers=mixers(0.5))
    run(plain)
    measured = {f["pair"]: f["quality"] for f in facts(plain)}
    assert len(measured) == 36
    unlike = {n for n, q in measured.items() if q["id_similarity"] < 0.6}
    turned = {n for n, q in measured.items() if q["pose_error_deg"] > 8} - unlike
    assert unlike and turned
    assert index["dropped_by"] == {
        "id_similarity": len(unlike), "pose_error": len(turned), "no_face": 0, "not_finite": 0
    }  # fmt: skip
    assert {f["pair"] for f in facts(exp)} == measured.keys() - unlike - turned
    assert index["kept"] + index["dropped"] == 36 == sum(s["pairs"] for s in index["shards"])
    assert numbers["pseudo_gt/dropped/pose_error"] == len(turned)
    assert f"id_similarity {len(unlike)}, pose_error {len(turned)}" in said
    kept = [q["id_similarity"] for n, q in measured.items() if n not in unlike | turned]
    assert index["quality"]["id_similarity"] == pytest.approx(np.mean(kept), abs=1e-3)
    everything = [q["id_similarity"] for q in measured.values()]
    assert index["quality_of_all"]["id_similarity"] == pytest.approx(np.mean(everything), abs=1e-3)


def test_best_of_drops_only_where_no_candidate_passes():
    batch = Batch(0, [7, 8, 9], [(0, 1)] * 3, torch.zeros(3, 2, 3, 2, 2), [0, 1], last=True)

    def swaps(teacher, positions, cosines, errors):
        n = len(positions)
        finite = torch.tensor(cosines) > -1
        return Candidates(
            teacher, positions, torch.zeros(n, 3, 2, 2), finite, torch.tensor(cosines), torch.tensor(errors)
        )

    both = [swaps(0, [0, 1], [0.9, 0.3], [30.0, 1.0]), swaps(1, [0, 1], [0.5, 0.2], [2.0, 1.0])]
    quality = Quality(pose="p", min_id_similarity=0.4, max_pose_error_deg=10, cosine_per_degree=0.001)
    first, second, third = choose(batch, both, quality)
    assert (first.teacher, first.reason) == (1, None), "the better score does not pass"
    assert first.scores == {0: pytest.approx(0.87), 1: pytest.approx(0.498)}
    assert (second.teacher, second.reason) == (0, "id_similarity") and (third.row, third.reason) == (None, "no_face")
    worse = [swaps(0, [0], [-2.0], [0.0]), swaps(1, [0], [-0.9], [0.0])]
    assert choose(batch, worse, quality)[0].reason == "id_similarity", "a swap with NaN is never the best"
    assert choose(batch, worse[:1], quality)[0].reason == "not_finite"


def test_pictures_without_a_face_are_dropped_and_named(experiment, drawn):
    photos = pseudo_gt.read_manifest(drawn.folder / "data", "train", SIZE)
    brightness = to_float(photos.load(range(len(photos)))).mean((1, 2, 3))
    darkest = float(brightness.sort().values[1:3].mean())  # two of twelve pictures
    dark = {row["file"] for row, b in zip(photos.rows, brightness.tolist(), strict=True) if b < darkest}
    assert len(dark) == 2
    exp = experiment(teachers=mixers(0.5, darkest=darkest))
    index, numbers, said = run(exp)
    pairs = [pseudo_gt.draw_pair(photos, 0, n) for n in range(36)]
    faceless = {n for n, pair in enumerate(pairs) if dark & {photos.rows[i]["file"] for i in pair}}
    assert index["dropped_by"]["no_face"] == len(faceless) == numbers["pseudo_gt/dropped/no_face"] > 0
    assert {f["pair"] for f in facts(exp)} == set(range(36)) - faceless
    assert f"dropped (no_face {len(faceless)})" in said
    one_by_one = experiment("single", teachers=mixers(0.5, darkest=darkest), batch_size=1)
    assert run(one_by_one)[0]["dropped_by"] == index["dropped_by"], "batches in which no pair has faces"
    both = experiment("both", teachers=(*mixers(0.5, darkest=darkest), Teacher("exact")), choose="best_of")
    index, _, _ = run(both)
    assert index["dropped"] == 0 and index["teachers"]["m0.5"]["swapped"] == 36 - len(faceless)


def test_a_teacher_whose_swaps_are_all_dropped_is_named(experiment):
    exp = experiment(teachers=mixers(0.0, 1.0), quality=Quality(min_id_similarity=0.99))
    index, _, said = run(exp)
    lost = index["teachers"]["m0.0"]["dropped_by"]["id_similarity"]
    assert index["teachers"]["m0.0"]["kept"] == 0 < lost and index["kept"] == 36 - lost
    assert f"teacher 'm0.0': every swap was dropped (id_similarity {lost})" in said and "! teacher 'm1.0'" not in said
    none = experiment("none", teachers=mixers(0.5), quality=Quality(min_id_similarity=1.1))
    index, _, said = run(none)
    assert index["kept"] == 0 and index["quality"] == {} and "every swap was dropped (id_similarity 36)" in said
    with pytest.raises(DataError, match="were all swaps dropped by pseudo_gt.quality.min_id_similarity"):
        Shards(none.folder / "pseudo_gt")


def test_swaps_with_nan_are_dropped(experiment):
    exp = experiment(teachers=mixers(0.5, spoils=True))
    index, _, _ = run(exp)
    assert index["dropped_by"]["not_finite"] == 9 and index["kept"] == 27, "one of every batch of four"


def test_identities_embeddings_and_poses_are_computed_once(experiment, drawn, monkeypatch):
    caches = []
    exp = experiment(teachers=mixers(0.5), quality=Quality(pose="synthetic_pose"))
    get = LruCache.get
    monkeypatch.setattr(LruCache, "get", lambda self, *a: caches.append(self) or get(self, *a))
    run(exp)
    photos = pseudo_gt.read_manifest(drawn.folder / "data", "train", SIZE)
    pairs = [pseudo_gt.draw_pair(photos, 0, n) for n in range(36)]
    sources, targets = ({pair[side] for pair in pairs} for side in (0, 1))
    assert len(set(Mixer.sources)) == len(sources)
    assert len(Mixer.sources) % 4 == 0 and len(Mixer.sources) < 36, "whole batches, and fewer of them than there are"
    cache = caches[0]
    assert cache.hits + cache.misses == 3 * 36 and cache.misses < 2 * len(sources) + len(targets), "some were ahead"


def test_the_cache_is_bounded_and_fills_batches_up():
    cache = LruCache(3 * (40 + 128), torch.device("cpu"), batch_size=4)
    asked = []

    def compute(pictures):
        def of(places):
            asked.append([pictures[p] for p in places])
            return (torch.tensor([[float(pictures[p])] * 10 for p in places]),)

        return of

    def read(*pictures):
        return [float(row[0][0]) for row in cache.get("x", pictures, compute(pictures))]

    assert read(1, 2, 1) == [1, 2, 1] and asked == [[1, 2, 2, 2]]
    assert read(2, 3) == [2, 3] and asked[1:] == [[3] * 4]
    assert read(1, 4) == [1, 4] and len(asked) == 3 and cache.bytes <= cache.limit
    assert read(2) == [2] and asked[3:] == [[2] * 4], "the least recently used goes first"
    row = cache.get("x", [4], compute([4]))[0][0]
    assert row.untyped_storage().nbytes() == 40, "a row does not keep its whole batch"
    none = LruCache(0, torch.device("cpu"), batch_size=2)
    assert [float(r[0][0]) for r in none.get("x", [5, 6], compute([5, 6]))] == [5, 6] and not none.rows


def test_free_places_of_a_batch_take_what_later_calls_need():
    cache, asked = LruCache(10**6, torch.device("cpu"), batch_size=4), []

    def read(pictures, others):
        everybody = [*pictures, *others]

        def compute(places):
            asked.append([everybody[p] for p in places])
            dark = [i for i, p in enumerate(places) if everybody[p] in (7, 8)]
            if dark:
                raise NoFace("no face", dark)
            return (torch.tensor([[float(everybody[p])] for p in places]),)

        return [row and float(row[0][0]) for row in cache.get("x", pictures, compute, others)]

    assert read([1], [2, 2, 1]) == [1] and asked == [[1, 2, 2, 2]], "nobody twice"
    assert read([2], [3]) == [2] and len(asked) == 1, "nothing is missing: no call for others alone"
    assert read([5, 6], [7, 9]) == [5, 6] and asked[1:] == [[5, 6, 7, 9], [5, 6, 9, 9]], (
        "without the one that has no face"
    )
    assert read([7, 9], [8]) == [None, 9] and len(asked) == 3 and (cache.hits, cache.misses) == (3, 3)
    assert read([8, 4], []) == [None, 4]
    full = LruCache(1, torch.device("cpu"), batch_size=4)
    got = full.get("x", [1], lambda places: (torch.zeros(len(places), 1),), [2, 3])
    assert len(got) == 1 and not full.rows
    full.bytes = 1  # as if rows were kept: others would push them out
    full.get("x", [1], lambda places: asked.append(places) or (torch.zeros(len(places), 1),), [2, 3])
    assert asked[-1] == [0, 0, 0, 0]


def test_precision_is_for_teachers_to_whom_it_is_harmless(experiment, monkeypatch):
    seen = {}
    built = pseudo_gt.build.teacher

    def keep(spec, exp):
        seen[spec.name] = built(spec, exp)
        return seen[spec.name]

    monkeypatch.setattr(pseudo_gt.build, "teacher", keep)
    run(experiment(teachers=(Teacher("network"), Teacher("mixer")), precision="bf16", pairs=8, shard_size=8))
    assert seen["network"].dtypes == {torch.bfloat16}
    run(experiment("full", teachers=(Teacher("network"),), pairs=8, shard_size=8))
    assert seen["network"].dtypes == {torch.float32}
