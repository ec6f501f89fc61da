import pandas as pd

from figures.gallery import pie_entries


def test_numbers_rows_and_pictures_by_hand():
    pies = pd.DataFrame(
        {
            "condition": ["a", "a", "a", "b", "b", "b"],
            "sample_id": ["x", "../y", "z", "x", "../y", "z"],
            "pie": [False, True, True, True, True, False],
        }
    )
    entries = pie_entries(pies)
    shown = entries[["condition", "sample_id", "number", "image"]].to_numpy().tolist()
    assert shown == [
        ["a", "../y", 0, "images/00000.png"],
        ["a", "z", 1, "images/00001.png"],
        ["b", "x", 2, "images/00002.png"],
        ["b", "../y", 3, "images/00000.png"],
    ]


def test_a_table_without_pies_gives_no_rows_but_the_columns():
    entries = pie_entries(pd.DataFrame({"condition": ["a"], "sample_id": ["x"], "pie": [False]}))
    assert len(entries) == 0
    assert {"number", "image"} <= set(entries.columns)
