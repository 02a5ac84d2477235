"""Networks of Python nnU-Net with random weights: keys, weights, outputs.

network.py FOLDER: reads FOLDER/networks.json, a list of {name, architecture, channels, heads, shape}, and writes
FOLDER/NAME.json (parameters in optimizer order, state_dict keys with the parameter each repeats) and FOLDER/NAME.bin
(float32: all parameters, the input, the outputs from full resolution down).
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
    parameters = list(network.named_parameters())
    spread = {name: float(p.std()) if p.numel() > 1 else 0.0 for name, p in parameters}
    with torch.no_grad():
        for name, p in parameters:
            if p.ndim == 1:  # otherwise norms and biases would all be 1 or 0
                p += 0.3 * torch.randn_like(p)
    index = {p.data_ptr(): j for j, (_, p) in enumerate(parameters)}
    keys = [(key, index[value.data_ptr()]) for key, value in network.state_dict().items()]
    data = torch.randn(case["shape"])
    with torch.no_grad():
        outputs = network(data)
    (folder / f"{case['name']}.json").write_text(json.dumps({
        "parameters": [(name, list(p.shape)) for name, p in parameters],
        "keys": keys,
        "spread": spread,
        "outputs": [list(o.shape) for o in outputs],
    }))
    with open(folder / f"{case['name']}.bin", "wb") as file:
        for tensor in [p for _, p in parameters] + [data] + list(outputs):
            file.write(tensor.detach().contiguous().numpy().astype("<f4").tobytes())
