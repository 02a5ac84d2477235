"""Networks of Python nnU-Net with random weights: keys, weights, outputs.

network.py FOLDER: reads FOLDER/networks.json, a list of {name, architecture, channels, heads, shape}, and writes
FOLDER/NAME.json (unique tensors of the state_dict, its keys with the tensor each repeats) and FOLDER/NAME.bin (float32:
the unique tensors, the input, the outputs from full resolution down; for a network without dropout then the outputs of
a training pass, and the unique tensors after it).
"""
import json
import sys
from pathlib import Path

import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

folder = Path(sys.argv[1])
for i, case in enumerate(json.loads((folder / "networks.json").read_text())):
    torch.manual_seed(i)
    architecture = case["architecture"]
    network = get_network_from_plans(
        architecture["network_class_name"], architecture["arch_kwargs"], architecture["_kw_requires_import"],
        case["channels"], case["heads"], allow_init=True, deep_supervision=True)
    state, index = [], {}
    for name, tensor in network.state_dict().items():
        if tensor.data_ptr() not in index:
            index[tensor.data_ptr()] = len(state)
            state.append((name, tensor))
    trained = [name for name, _ in network.named_parameters()]
    assert trained == [name for name, _ in state if name in trained], "another order than the optimizer's"
    spread = {name: float(t.std()) if t.numel() > 1 else 0.0 for name, t in state}
    with torch.no_grad():
        for name, t in state:
            if t.ndim == 1:  # otherwise norms and biases would all be 1 or 0
                t += 0.3 * torch.rand_like(t) if "running" in name else 0.3 * torch.randn_like(t)
            elif t.ndim == 0:
                t += 3
    keys = [(key, index[value.data_ptr()]) for key, value in network.state_dict().items()]
    data = torch.randn(case["shape"])
    before = [t.clone() for _, t in state]
    with torch.no_grad():
        outputs = network.eval()(data)
        after = []
        if architecture["arch_kwargs"]["dropout_op"] is None:
            after = [*network.train()(data), *(t for _, t in state)]
    (folder / f"{case['name']}.json").write_text(json.dumps({
        "parameters": [(name, list(t.shape), name in trained) for name, t in state],
        "keys": keys,
        "spread": spread,
        "outputs": [list(o.shape) for o in outputs],
    }))
    with open(folder / f"{case['name']}.bin", "wb") as file:
        for tensor in [*before, data, *outputs, *after]:
            file.write(tensor.detach().contiguous().numpy().astype("<f4").tobytes())
