"""The coverage of each room is what coverage.py counts in its files."""

import json

from suites.meta.studies.room_coverage import Report, Summary, rooms_of


def test_files_of_a_room_are_counted_together(tmp_path):
    def file(statements, covered, branches, taken):
        counts = {"num_statements": statements, "covered_lines": covered}
        return {"summary": counts | {"num_branches": branches, "covered_branches": taken, "percent_covered": 1.5}}

    files = {
        "fixtures/gate/case.py": file(10, 8, 4, 1),
        "fixtures/faults/families/graph.py": file(5, 5, 0, 0),
        "fixtures/gate/checks.py": file(10, 9, 0, 0),
        "fixtures/arrays.py": file(0, 0, 0, 0),
    }
    (tmp_path / "coverage.json").write_text(json.dumps({"meta": {}, "files": files}))
    rooms = {room.name: room for room in rooms_of(Report.read(tmp_path / "coverage.json"))}
    assert list(rooms) == ["arrays.py", "faults", "gate", "all"]
    assert rooms["gate"].summary == Summary(20, 17, 4, 1)
    assert [round(room.summary.percent) for room in rooms.values()] == [100, 100, 75, 79]
    assert str(rooms["gate"]).split() == ["gate", "20", "3", "75.0", "%"]
