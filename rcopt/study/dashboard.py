"""What optuna-dashboard shows of a study on its first page: a note and the front.

Both are attributes of the study in a format of optuna-dashboard's own (seen in 0.21), which is
neither needed nor imported: a changed format costs the page, never the study.
"""

import optuna

#: Longest text of one attribute; databases take no more.
_LENGTH = 2045
_NOTE, _PLOT = "dashboard:note_str:", "dashboard:plot_data:front:"


def show_result(study: optuna.Study, note: str, plot: str) -> None:
    """Put a note and a plot on a study's page in optuna-dashboard.

    Args:
        study: In its storage.
        note: Markdown.
        plot: What Plotly draws, as JSON.
    """
    storage, number = study._storage, study._study_id
    stored = storage.get_study_system_attrs(number)
    changed = False
    for key, text in ((_NOTE, note), (_PLOT, plot)):
        parts = {
            f"{key}{index}": text[start : start + _LENGTH]
            for index, start in enumerate(range(0, len(text), _LENGTH))
        }
        # What a longer text left behind would be read as its end.
        parts |= {old: "" for old in stored if old.startswith(key) and old not in parts}
        for name, part in parts.items():
            if stored.get(name) != part:
                storage.set_study_system_attr(number, name, part)
                changed = True
    if changed:
        version = stored.get("dashboard:note_ver", 0)
        storage.set_study_system_attr(number, "dashboard:note_ver", version + 1)
