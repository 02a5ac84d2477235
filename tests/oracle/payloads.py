"""2,000 job payloads, and what the Pydantic models that users know make of each.

usage: payloads.py SEED COUNT; prints one JSON object a line:
{"payload": ..., "accepted": bool, "parsed": {...} or null, "errors": [field, ...]}
"""

import json
import random
import sys
from pathlib import Path
from typing import Dict, Literal, Optional, Union

from pydantic import BaseModel, ConfigDict, ValidationError


class Payload(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class TrainingPayload(Payload):
    mode: Literal["training"]
    num_rounds: int
    dataset_id: int
    model_configuration: Literal["2d", "3d_lowres", "3d_fullres"]
    device: Literal["cpu", "cuda", "mps"] = "cuda"
    fold_id: Union[Literal["all"], int] = "all"
    trainer_name: str = "nnUNetTrainer"
    epochs_per_round: int = 1
    starting_fed_round: int = 0


class InferencePayload(Payload):
    mode: Literal["inference"]
    checkpoint_path: Path
    fold_id: Union[Literal["all"], int]
    device: Optional[Literal["cpu", "cuda", "mps"]] = "cuda"
    apheris_dataset_subdirs: Dict[str, str] = {}
    checkpoint_name: Literal["checkpoint_final.pth", "checkpoint_best.pth"] = "checkpoint_final.pth"


# What a number may look like, and what only looks like one.
INTEGERS = [1, 2, 7, 250, "1", "2", " 3 ", "+4", "5.0", "1_000", "007", 2.0, 30.0, True, "\u00a02", "\t6\n", "1_0.0"]
STRANGE = [0, -1, "-2", "-0", False, 2**31, 2**32, 2**63, 2**64, 10**30, "4294967296", "99999999999999999999", 1e30, 1e18]
NO_INTEGERS = [None, "", " ", "two", "2.", ".0", "2.5", "1e3", "0x10", "1__0", "_1", "1_", "+ 2", "--3", "1 .0", "\u0663",
               2.5, -0.5, [], [1], {}, {"a": 1}, "all "]
TEXTS = ["", "x", "nnUNetTrainer", "nnUNetTrainer_5epochs", "models/a", "/models/a", "job:job-3", "a//b/./c", "caf\u00e9"]
NO_TEXTS = [None, 3, 2.5, True, ["x"], {"x": None}]
DEVICES = ["cpu", "cuda", "mps"]
NO_NAMES = ["CPU", "gpu", "cuda:0", "", " cpu", 0, True, ["cpu"], {"cpu": None}, {"2d": None}, "3d_cascade_fullres"]
FOLDERS = ["imagesTs", "new/scans", "./imagesTr", "", "..", "/etc", "a/../..", "a/.."]


def integer(rng):
    kind = rng.random()
    return rng.choice(INTEGERS if kind < 0.75 else STRANGE if kind < 0.88 else NO_INTEGERS)


def name(rng, names):
    kind = rng.random()
    return rng.choice(names) if kind < 0.88 else rng.choice(NO_NAMES + [None])


def text(rng):
    return rng.choice(TEXTS if rng.random() < 0.88 else NO_TEXTS)


def fold(rng):
    return "all" if rng.random() < 0.4 else integer(rng)


def subfolders(rng):
    if rng.random() < 0.08:
        return rng.choice([None, [], "a", {"a": None}, {"a": 3}, {"a": ["x"]}, {"a": {"b": "c"}}])
    return {key: rng.choice(FOLDERS) for key in rng.sample(["a", "b", "c"], rng.randrange(3))}


def sometimes(rng, payload, field, value, chance):
    if rng.random() < chance:
        payload[field] = value


def training(rng):
    payload = {"mode": "training"}
    sometimes(rng, payload, "num_rounds", integer(rng), 0.97)
    sometimes(rng, payload, "dataset_id", integer(rng), 0.97)
    sometimes(rng, payload, "model_configuration", name(rng, ["2d", "3d_lowres", "3d_fullres"]), 0.97)
    sometimes(rng, payload, "device", name(rng, DEVICES), 0.5)
    sometimes(rng, payload, "fold_id", fold(rng), 0.5)
    sometimes(rng, payload, "trainer_name", text(rng), 0.3)
    sometimes(rng, payload, "epochs_per_round", integer(rng), 0.3)
    sometimes(rng, payload, "starting_fed_round", integer(rng), 0.3)
    return payload


def inference(rng):
    payload = {"mode": "inference"}
    sometimes(rng, payload, "checkpoint_path", text(rng), 0.97)
    sometimes(rng, payload, "fold_id", fold(rng), 0.97)
    sometimes(rng, payload, "device", name(rng, DEVICES + [None]), 0.5)
    sometimes(rng, payload, "apheris_dataset_subdirs", subfolders(rng), 0.5)
    sometimes(rng, payload, "checkpoint_name", name(rng, ["checkpoint_final.pth", "checkpoint_best.pth"]), 0.5)
    return payload


def disturb(rng, payload):
    """Now and then a wrong mode, a field of the other model, or one that no model has."""
    if rng.random() < 0.03:
        payload["mode"] = rng.choice(["train", "Training", "", None, 1, ["training"], {"training": None}, "inference"])
    if rng.random() < 0.01:
        del payload["mode"]
    if rng.random() < 0.04:
        payload[rng.choice(["extra", "learning_rate", "Mode", "num_rounds", "checkpoint_path", ""])] = rng.choice([1, None, {}])
    items = list(payload.items())
    rng.shuffle(items)
    return dict(items)


def read(payload):
    models = {"training": TrainingPayload, "inference": InferencePayload}
    mode = payload.get("mode")
    if not isinstance(mode, str) or mode not in models:
        return None, ["mode"]
    try:
        return json.loads(models[mode](**payload).model_dump_json()), []
    except ValidationError as error:
        return None, sorted({str(found["loc"][0]) for found in error.errors()})


def main():
    seed, count = int(sys.argv[1]), int(sys.argv[2])
    rng = random.Random(seed)
    for _ in range(count):
        payload = disturb(rng, training(rng) if rng.random() < 0.5 else inference(rng))
        parsed, errors = read(payload)
        print(json.dumps({"payload": payload, "accepted": parsed is not None, "parsed": parsed, "errors": errors}))


main()
