"""How a run logs: lines above the progress bar, and the three published figures of a loss."""
import math
import sys

from tqdm import tqdm

RULE, DOUBLE_RULE = "-" * 89, "=" * 89


def log(*lines):
    """Print log lines, above a progress bar if there is one."""
    for line in lines:
        tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()


def perplexity(loss):
    """exp of a loss in nats, infinity instead of an overflow."""
    return math.exp(loss) if loss < 700 else math.inf


def report(loss, split=""):
    """The three figures of every published log line, from a mean loss in nats; `split` as in "valid "."""
    return f"{split}loss {loss:5.2f} | {split}ppl {perplexity(loss):8.2f} | {split}bpc {loss / math.log(2):8.3f}"
