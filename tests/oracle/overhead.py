"""What a round costs without training: Rounds beside NVFLARE, three clients that only touch the weights.

overhead.py nvflare MEGABYTES ROUNDS FOLDER     in a Python with nvflare 2.9; prints seconds per round
overhead.py ratios FILE...                      one line per size from the outputs of both: {"peer", "megabytes", "seconds"}

NVFLARE runs its FedAvg recipe on numpy weights in its simulator: three clients as threads of one process tree. A round
is the time between two arrivals of the global weights at a client.
"""

import json
import statistics
import sys
from pathlib import Path

CLIENTS = 3

CLIENT = """
import sys, time
import nvflare.client as flare

flare.init()
while flare.is_running():
    model = flare.receive()
    if model is None:
        break
    with open(sys.argv[1] + "/" + flare.get_site_name(), "a") as file:
        file.write(f"{time.monotonic()}\\n")
    params = {name: value + 1 for name, value in model.params.items()}
    flare.send(flare.FLModel(params=params, meta={"NUM_STEPS_CURRENT_ROUND": 1}))
"""


def nvflare(megabytes, rounds, folder):
    import numpy
    from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe
    from nvflare.recipe.sim_env import SimEnv

    folder = Path(folder).resolve()
    times = folder / "times"
    times.mkdir(parents=True)
    script = folder / "touch_weights.py"
    script.write_text(CLIENT)
    start = folder / "start.npy"
    numpy.save(start, numpy.zeros(megabytes * 250_000, numpy.float32))
    recipe = NumpyFedAvgRecipe(
        name="overhead",
        initial_ckpt=str(start),
        min_clients=CLIENTS,
        num_rounds=rounds,
        train_script=str(script),
        train_args=str(times),
    )
    run = recipe.execute(SimEnv(num_clients=CLIENTS, workspace_root=str(folder / "work")))
    run.get_status()
    seconds = []
    for file in times.iterdir():
        moments = [float(line) for line in file.read_text().split()]
        if len(moments) != rounds:
            sys.exit(f"{file.name}: {len(moments)} of {rounds} rounds")
        seconds += [after - before for before, after in zip(moments, moments[1:])]
    print(json.dumps({"peer": "nvflare", "megabytes": megabytes, "seconds": statistics.median(seconds)}))


def ratios(files):
    found = {}
    for file in files:
        for line in Path(file).read_text().splitlines():
            if line.startswith('{"peer"'):
                line = json.loads(line)
                found.setdefault(line["megabytes"], {})[line["peer"]] = line["seconds"]
    print(f"{'model':>10}{'NVFLARE':>12}{'Rounds':>12}{'ratio':>10}")
    for megabytes, seconds in sorted(found.items()):
        theirs, ours = seconds["nvflare"], seconds["rounds"]
        print(f"{megabytes:>7} MB{theirs:>10.2f} s{ours:>10.2f} s{theirs / ours:>10.1f}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["nvflare", megabytes, rounds, folder]:
            nvflare(int(megabytes), int(rounds), folder)
        case ["ratios", *files] if files:
            ratios(files)
        case _:
            sys.exit(__doc__)
