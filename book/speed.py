"""Write the page of the benchmarks, `book/speed.md`, from their results: the second half of `make bench`.

    python book/speed.py _build/bench.json      # take over what pytest-benchmark has measured, and write the page
    python book/speed.py                        # write the page again

What is taken over replaces the results of the same groups in `book/speed.json`. So the measurements of a GPU may come
from another machine.
"""

import json
import sys
from pathlib import Path
from typing import NamedTuple

import yaml

BOOK = Path(__file__).resolve().parent
GIGA = 1e9
WAYS = {
    "reference": "plain reference",
    "captum": "captum",
    "all points": "`kn_utils`, `exact_steps=True`",
    "kn_utils": "`kn_utils`",
}
NO_GPU = "Speed on a GPU was not measured."


# ---------------------------------------------------------------- operations, from the shapes

class Shape(NamedTuple):
    n_layers: int
    hidden: int
    neurons: int
    vocabulary: int

    @property
    def ffn(self):
        """Multiplications per token of either of an FFN's two maps."""
        return self.hidden * self.neurons

    @property
    def layer(self):
        """Multiplications per token of a layer's linear maps."""
        return 4 * self.hidden**2 + 2 * self.ffn

    @property
    def head(self):
        return self.hidden**2 + self.hidden * self.vocabulary


BERT_BASE = Shape(n_layers=12, hidden=768, neurons=3072, vocabulary=28_996)


def full_passes(shape, n_tokens, n_points):
    """Operations for one prompt if all copies pass through the whole model, and back to the layer in question.

    All counts are of linear maps, two operations for a multiplication and an addition. The products within attention
    are left out. A backward pass without gradients of weights costs as much as the forward pass.
    """
    whole = shape.n_layers * shape.layer + shape.head
    back = sum(above * shape.layer + shape.ffn + shape.head for above in range(shape.n_layers))
    return 2 * n_tokens * (whole + n_points * (shape.n_layers * whole + back))


def cached_layers(shape, n_tokens, n_points, at_mask=True):
    """Operations for one prompt if only the layers above the one in question run again, and the head at the mask.

    The down projection is needed once, forward and backward.

    Args:
        at_mask: the last layer has keys and values of all tokens, and all else at the mask only.
    """
    layer, last = n_tokens * shape.layer, last_layer(shape, n_tokens, at_mask)
    above = sum((n - 1) * layer + last for n in range(1, shape.n_layers))
    once = (shape.n_layers - 1) * layer + last + shape.head + 2 * shape.n_layers * shape.ffn
    return 2 * once + 4 * n_points * (above + shape.n_layers * shape.head)


def last_layer(shape, n_tokens, at_mask):
    """Multiplications of the last layer, in all tokens or with no more of the others than their keys and values."""
    return shape.layer + (n_tokens - 1) * (2 * shape.hidden**2 if at_mask else shape.layer)


def node_at_w(shape, n_tokens, n_nodes):
    """The same where one node is at w: no copies are needed for it, one pass back from the head serves all layers."""
    back = (shape.n_layers - 2) * n_tokens * shape.layer + last_layer(shape, n_tokens, at_mask=True) + shape.head
    return cached_layers(shape, n_tokens, n_nodes - 1) + 2 * back


# ---------------------------------------------------------------- results

def groups(output):
    """What pytest-benchmark has written, in short: group -> machine and ways -> numbers. Times are in seconds."""
    found = {}
    for result in output["benchmarks"]:
        group = found.setdefault(result["group"], {"machine": output["machine_info"], "ways": {}})
        way = (result["params"] or {}).get("way", "kn_utils")
        numbers = {"seconds": result["stats"]["median"], "rounds": result["stats"]["rounds"], **result["extra_info"]}
        group["ways"][way] = {name: shortened(value) for name, value in numbers.items()}
    return found


def shortened(value):
    return float(f"{value:.4g}") if isinstance(value, float) else value


# ---------------------------------------------------------------- the page

def substitutions(data):
    """Every number and table of the page, by the name that the page calls it."""
    bert, lab, ablation, every = (data[name]["ways"] for name in ("bert", "lab", "ablation", "all"))
    plain, exact, ours = bert["reference"], bert["all points"], bert["kn_utils"]
    every = every["kn_utils"]
    return {
        "machine": machine(data["bert"]["machine"]),
        "prompts": plain["prompts"],
        "tokens": f"{min(plain['tokens'])} to {max(plain['tokens'])}",
        "fewest": ours["nodes"],
        "degree": 2 * ours["nodes"] - 1,
        "speedup": ratio(plain, ours),
        "points_speedup": ratio(plain, exact),
        "memory": f"{ours['memory'] / GIGA:.1f}",
        "more_memory": f"{ours['more_memory'] / GIGA:.1f}",
        "share": share(ours),
        "rate": f"{ours['matrix_rate'] / GIGA:.0f}",
        "rate_rows": f"{ours['rate_rows']:,}",
        "difference": power(ours["difference"]),
        "ablation_speedup": ratio(ablation["reference"], ablation["kn_utils"]),
        "ablation_neurons": f"{ablation['kn_utils']['neurons']:,}",
        "facts": f"{every['facts']:,}",
        "all_prompts": f"{every['prompts']:,}",
        "all_seconds": f"{every['seconds']:.0f}",
        "facts_per_second": f"{every['facts'] / every['seconds']:.0f}",
        "lab_rate": f"{every['matrix_rate'] / GIGA:.0f}",
        "threads": f"{every['threads']} thread{'s' * (every['threads'] > 1)}",
        "bert_table": bert_table(bert),
        "flop_table": flop_table(bert),
        "lab_table": lab_table(lab),
        "some_table": some_table({name: data[f"some, {name}"]["ways"] for name in ("lab", "lab-causal")}),
        "changes": data["scaled, lab"]["ways"]["kn_utils"]["changes"],
        "scaled_table": some_table({name: data[f"scaled, {name}"]["ways"] for name in ("lab", "lab-causal")}),
        "gpu": gpu(data["gpu"]) if "gpu" in data else NO_GPU,
    }


def bert_table(ways):
    rows = [
        [
            WAYS[way],
            f"{per_prompt(result):.2f}",
            ratio(ways["reference"], result),
            f"{result['memory'] / GIGA:.1f}",
            f"{result['flop'] / result['prompts'] / GIGA:,.0f}",
            share(result),
        ]
        for way, result in ways.items()
    ]
    head = ["", "seconds per prompt", "times faster", "peak memory (GB)", "GFLOP per prompt", "of the matrix rate"]
    return table(head, rows)


def flop_table(ways):
    """Operations per prompt from the shapes, beside those that were counted; means over the prompts."""
    plain, exact, ours = (ways[way] for way in ("reference", "all points", "kn_utils"))

    def row(what, count, n_points, result=None, **options):
        gflop = [count(BERT_BASE, n, n_points, **options) / GIGA for n in plain["tokens"]]
        counted = f"{result['flop'] / result['prompts'] / GIGA:,.0f}" if result else ""
        return [what, n_points, f"{sum(gflop) / len(gflop):,.0f}", counted]

    rows = [row("whole model, every copy", full_passes, 20, plain)]
    rows.append(row("layers above only, head at the mask", cached_layers, 20, at_mask=False))
    rows.append(row("last layer at the mask, too", cached_layers, 20, exact))
    fewest = ours["nodes"]
    rows.append(row("the sum by a Gauss rule, too", cached_layers, fewest))
    rows.append(row("the node at the activation itself without copies, too", node_at_w, fewest, ours))
    return table(["what runs", "points", "GFLOP from the shapes", "GFLOP counted"], rows)


def lab_table(ways):
    rows = [[WAYS[w], f"{1000 * per_prompt(r):.1f}", ratio(ways["reference"], r)] for w, r in ways.items()]
    return table(["", "milliseconds per prompt", "times faster"], rows)


def some_table(models):
    rows = []
    for name, ways in models.items():
        ours = ways["kn_utils"]
        milliseconds = [f"{1000 * per_prompt(way):.1f}" for way in (ways["reference"], ours)]
        rows.append([f"`{name}`", ours["facts"], ours["prompts"], *milliseconds, ratio(ways["reference"], ours)])
    head = ["model", "facts", "prompts", "reference, ms per prompt", "`kn_utils`", "times faster"]
    return table(head, rows)


def gpu(group):
    rows = []
    for precision, result in group["ways"].items():
        rate = result["prompts"] / result["seconds"]
        minutes = result["pararel_prompts"] / rate / 60
        memory = result["memory"] / GIGA
        rows.append([f"`{precision}`", f"{rate:,.0f}", share(result), f"{memory:.1f}", f"{minutes:.0f}"])
    head = ["precision", "prompts per second", "of the matrix rate", "peak memory (GB)", "minutes for ParaRel"]
    some = next(iter(group["ways"].values()))
    about = f"{some['prompts']:,} prompts on one {group['machine']['gpu']}."
    last = f"The last column is what that rate means for the {some['pararel_prompts']:,} prompts of ParaRel."
    return f"{about} {last}\n\n{table(head, rows)}"


def table(head, rows):
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def per_prompt(result):
    return result["seconds"] / result["prompts"]


def ratio(slow, fast):
    return f"{per_prompt(slow) / per_prompt(fast):.1f}"


def share(result):
    """Of the rate of matrix products, measured just before and after."""
    return f"{100 * result['flop'] / result['seconds'] / result['matrix_rate']:.0f} %"


def power(value):
    mantissa, exponent = f"{value:.0e}".split("e")
    return rf"${mantissa} \cdot 10^{{{int(exponent)}}}$"


def machine(about):
    return f"{about['cpu']} with {about['cores']} cores, torch {about['torch']}, transformers {about['transformers']}"


class Block(yaml.SafeDumper):
    """Writes tables line by line."""


Block.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None),
)


def page(data, text):
    """The page with the numbers of `data`: they stand before the text, which calls them by name."""
    _, _, body = text.split("---\n", 2)
    numbers = yaml.dump({"myst": {"substitutions": substitutions(data)}}, Dumper=Block, sort_keys=False, width=1000)
    return f"---\n# written by `make bench`\n{numbers}---\n{body}"


def main(folder, paths):
    data_file, page_file = folder / "speed.json", folder / "speed.md"
    data = json.loads(data_file.read_text()) if data_file.exists() else {}
    for path in paths:
        data |= groups(json.loads(Path(path).read_text()))
    data_file.write_text(json.dumps(data, indent=1) + "\n")
    page_file.write_text(page(data, page_file.read_text()))


if __name__ == "__main__":
    main(BOOK, sys.argv[1:])
