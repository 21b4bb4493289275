"""yolov2.errors: complaints are all kept, and few of them printed."""

from yolov2.errors import Complaints


def test_every_complaint_is_kept_and_few_are_printed(capsys):
    complaints = Complaints()
    for i in range(7):
        complaints.add("empty boxes dropped", f"{i}.xml")
        complaints.add("unreadable pictures left out", f"{i}.jpg")
    assert list(complaints) == [
        *(("empty boxes dropped", f"{i}.xml") for i in range(7)),
        *(("unreadable pictures left out", f"{i}.jpg") for i in range(7)),
    ]
    complaints.report()
    first, second = capsys.readouterr().err.splitlines()
    assert first == "warning: empty boxes dropped: 7 (0.xml, 1.xml, 2.xml, 3.xml, 4.xml, ...)"
    assert second.startswith("warning: unreadable pictures left out: 7 (0.jpg")
    assert not list(complaints) and not complaints.counts and not complaints.summary()


def test_a_remark_is_made_once(capsys):
    complaints = Complaints()
    for _ in range(2):
        complaints.note("no val split")
        complaints.clear()
    assert capsys.readouterr().err == "note: no val split\n"
