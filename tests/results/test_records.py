"""Records of results/table.py: a record keeps the rules, and the page shows what the result files say."""
import json
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "results"))
import table


def result(folder, name, perplexity=60.0, seconds=(900, 1000, 5000), parameters=24_000_000,
           device="cpu AMD EPYC, 2 threads (AVX512)"):
    (folder / name).write_text(json.dumps({
        "date": "2026-11-22 11:50:31 +0000", "test": {"perplexity": perplexity}, "parameters": parameters,
        "epochs": [{"seconds": each} for each in seconds], "commit": "36874fc63b85", "device": device,
        "command": "main.py --data data/penn"}))
    return name


def test_a_line_has_the_facts_of_the_result(tmp_path):
    hours = table.record(tmp_path / result(tmp_path, "a.json"))["hours"]
    assert hours == 3 * 1000 / 3600                       # of the median epoch: the one with a pause does not count
    both = (result(tmp_path, "a.json"), "first"), (result(tmp_path, "b.json", 59.5), "second")
    page = table.records(both, tmp_path)
    assert "| 2026-11-22 | **60.00** | 0.8 | 3 | first | 36874fc | AMD EPYC, 2 threads (AVX512) |" in page
    assert page.index("**60.00**") < page.index("**59.50**") and page.count("python main.py --data data/penn") == 2


@pytest.mark.parametrize(("broken", "said"), [
    ({"parameters": 24_500_001}, "parameters"), ({"seconds": [22_000, 22_000, 1]}, "hours"),
    ({"device": "NVIDIA H100"}, "two CPU threads"),
    ({"device": "cpu AMD EPYC, 16 threads (AVX512)"}, "two CPU threads")])
def test_what_does_not_keep_the_rules_is_refused(broken, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        table.record(tmp_path / result(tmp_path, "a.json", **broken))


def test_what_is_not_below_the_record_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not below"):
        table.records([(result(tmp_path, "a.json"), ""), (result(tmp_path, "b.json", 60.0), "")], tmp_path)


def test_the_page_is_up_to_date():
    page = table.RECORDS_PAGE.read_text(encoding="utf-8")
    assert table.with_tables(page, table.records()) == page
