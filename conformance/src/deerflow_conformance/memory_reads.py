"""Checks of what is read from a memory store: M6, M7, M9 and M11."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Awaitable, Callable, Iterable
from fractions import Fraction
from functools import partial
from typing import Any

from deerflow_backends.errors import InvalidArgument, RevisionConflict
from deerflow_backends.memories import (
    Change,
    DeleteFact,
    Fact,
    MemoryStore,
    PutBody,
    PutFact,
)
from deerflow_conformance.bench import Bench
from deerflow_conformance.checks import check, expect
from deerflow_conformance.expectations import every_page, expect_same, refused, repeated_while, work
from deerflow_conformance.memory_programs import AGENTS, FACT_IDS, SearchProgram, search_programs
from deerflow_conformance.paging_programs import PagingProgram, paging_programs

# ---------------------------------------------------------------------- M6


@check("M6")
def pages_lose_and_repeat_nothing(bench: Bench) -> None:
    """Whatever is put, changed or deleted between pages, every other fact comes exactly once, in order of its id."""

    async def body(program: PagingProgram) -> None:
        async with bench.open() as store:
            present = {_paged_id(index) for index in program.present}
            if present:
                await store.apply("ann", [PutFact("a", fact_id, {"category": "x"}) for fact_id in sorted(present)])
            await store.apply("ann", [PutFact("b", "zz", {"category": "x"}), PutFact("a", "~", {"category": "y"})])
            between, seen = list(program.between), list[str]()
            read = partial(store.list_facts, "ann", agent_name="a", category="x", limit=program.limit)
            async for page in every_page(lambda cursor: read(cursor=cursor)):
                expect(len(page.items) <= program.limit, f"at most {program.limit} facts", page)
                seen += [fact.fact_id for fact in page.items]
                after = seen[-1].encode() if seen else b""
                more = any(fact_id.encode() > after for fact_id in present)
                expect((page.next_cursor is not None) == more, f"a cursor: {more}, after {after!r}", page)
                for number, action in enumerate(between.pop(0) if between and page.next_cursor else ()):
                    fact_id = _paged_id(action.index)
                    change: Change = DeleteFact("a", fact_id)
                    if action.kind == "remove":
                        present.discard(fact_id)
                    elif action.kind == "create" or fact_id in present:
                        present.add(fact_id)
                        change = PutFact("a", fact_id, {"category": "x", "n": [len(between), number]})
                    await store.apply("ann", [change])
            expect(seen == sorted(set(seen), key=str.encode), "ids in order, none twice", seen)
            quiet = {_paged_id(index) for index in set(program.present) - program.disturbed}
            expect(quiet <= set(seen), f"every fact that nobody touched: {sorted(quiet)}", seen)

    bench.explore(paging_programs(), body)


def _paged_id(index: int) -> str:
    """Name a fact so that neither numeric nor locale nor UTF-16 order is the order by bytes."""
    return ("10", "9", "B", "a", "Z", "é", "z", "\uffee", "\U00010000", "a\x00", "a:", "ab")[index]


@check("M6")
def facts_keep_all_fields_and_byte_order(bench: Bench) -> None:
    """Fields that nobody knows are kept, ids order by their UTF-8 bytes, and categories match exactly."""

    async def body() -> None:
        async with bench.open() as store:
            ids = [_paged_id(index) for index in range(12)]
            values = {
                fact_id: {"content": "x", "$odd.key": [n, {"": None}], "category": "C"} for n, fact_id in enumerate(ids)
            }
            await store.apply("ann", [PutFact(None, fact_id, value) for fact_id, value in values.items()])
            ordered = sorted(ids, key=str.encode)
            for limit in (1, 5, 11, 12, 13, 1_000):
                facts = await _listed(store, limit=limit, category="C")
                expect_same(
                    f"facts by pages of {limit}",
                    [(i, values[i]) for i in ordered],
                    [(f.fact_id, f.value) for f in facts],
                )
            odd = [{"category": c} for c in ("c", "C ", "Ｃ", 1, None, ["C"], "")] + [{}]
            await store.apply("ann", [PutFact(None, f"odd{n}", value) for n, value in enumerate(odd)])
            expect_same("facts of category C", ordered, [fact.fact_id for fact in await _listed(store, category="C")])
            for category, fact_id in (("c", "odd0"), ("", "odd6")):
                found = [fact.fact_id for fact in await _listed(store, category=category)]
                expect_same(f"facts of category {category!r}", [fact_id], found)
            expect_same("facts of any category", len(ids) + len(odd), len(await _listed(store, limit=4)))

    bench.run(body)


async def _listed(store: MemoryStore, *, limit: int = 100, category: str | None = None) -> list[Fact]:
    read = partial(store.list_facts, "ann", agent_name=None, category=category, limit=limit)
    return [fact async for page in every_page(lambda cursor: read(cursor=cursor)) for fact in page.items]


@check("M6")
def bad_pages_are_refused(bench: Bench) -> None:
    """Limits outside 1 to 1,000, damaged cursors and those of another listing are InvalidArgument."""

    async def body() -> None:
        async with bench.open() as store:
            changes = [PutFact(agent, f"f{n}", {"category": "x"}) for agent in AGENTS[:2] for n in range(3)]
            await store.apply("ann", changes)
            await store.apply("bob", changes)
            for limit in (0, -1, 1_001, True, "10", 1.0):
                call = store.list_facts("ann", agent_name=None, limit=limit)
                await refused(call, InvalidArgument, f"limit {limit!r}")
            cursor = (await store.list_facts("ann", agent_name=None, limit=1)).next_cursor
            expect(isinstance(cursor, str), "a cursor after one fact of three", cursor)
            damaged = ["", "x", cursor[:-1], cursor + "A", cursor.swapcase(), cursor + "\x00", "é", 7, b"x"]
            for bad in damaged:
                call = store.list_facts("ann", agent_name=None, limit=1, cursor=bad)
                await refused(call, InvalidArgument, f"the cursor {bad!r}")
            for user_id, part, category in [("bob", None, None), ("ann", "planner", None), ("ann", None, "x")]:
                call = store.list_facts(user_id, agent_name=part, category=category, cursor=cursor)
                await refused(call, InvalidArgument, f"the cursor of another listing in {user_id, part, category}")

    bench.run(body)


# ---------------------------------------------------------------------- M7


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold()


def _score(content: Any, query: str) -> Fraction | None:
    """Work out M7 from its words: the share of the text that the query's different parts cover; None: no match."""
    if not isinstance(content, str):
        return None
    text, covered = _folded(content), 0
    for part in set(_folded(query).split()):
        found = text.split(part)
        if len(found) == 1:
            return None
        covered += (len(found) - 1) * len(part)
    return Fraction(covered, len(text))


def wanted_matches(facts: dict[str, Any], query: str, category: str | None) -> list[tuple[str, Fraction]]:
    """Predict ids and scores, the best first, equal ones by id."""
    matches = [
        (fact_id, score)
        for fact_id, value in facts.items()
        if (category is None or (isinstance(value.get("category"), str) and value["category"] == category))
        and (score := _score(value.get("content"), query)) is not None
    ]
    return sorted(matches, key=lambda match: (-match[1], match[0].encode()))


async def _expect_found(
    store: MemoryStore, facts: dict[str, Any], query: str, category: str | None, limit: int
) -> None:
    wanted = wanted_matches(facts, query, category)[:limit]
    got = await store.search("ann", query, agent_name="a", category=category, limit=limit)
    expect_same(
        f"the facts found by {query!r} in category {category!r} of {facts!r}",
        [(fact_id, facts[fact_id]) for fact_id, _ in wanted],
        [(match.fact.fact_id, match.fact.value) for match in got],
    )
    scores = [match.score for match in got]
    close = all(abs(score - float(want)) < 1e-9 for score, (_, want) in zip(scores, wanted, strict=True))
    expect(close, f"scores {[float(want) for _, want in wanted]}", scores)


@check("M7")
def search_is_what_the_words_say(bench: Bench) -> None:
    """For any texts, queries, categories and limits: the facts, order and scores that the stated rule gives."""

    async def body(program: SearchProgram) -> None:
        facts = {FACT_IDS[n]: value for n, value in enumerate(program.values)}
        async with bench.open() as store:
            await store.apply("ann", [PutFact("a", fact_id, value) for fact_id, value in facts.items()])
            for query in program.queries:
                if query.split():
                    await _expect_found(store, facts, query, program.category, program.limit)
                else:
                    call = store.search("ann", query, agent_name="a")
                    await refused(call, InvalidArgument, f"the empty query {query!r}")

    bench.explore(search_programs(), body)


@check("M7")
def scripts_and_forms_are_found(bench: Bench) -> None:
    """Text without spaces, other cases, ligatures, full-width letters and composed accents are found alike."""
    texts = {
        "zh": "用户喜欢喝绿茶，不喝咖啡",
        "ja": "お茶が好き",
        "de": "Die STRASSE heißt Groß",
        "tr": "İstanbul",
        "fi": "ﬁne ofﬁce",
        "wide": "ＡＢＣ　ｄｅｆ",
        "nfd": "Cafe\u0301 olé",
        "odd": "100% a_b c\\d [x]* 'q' \x00 end",
    }
    found = [
        ("绿茶", ["zh"]),
        ("茶", ["ja", "zh"]),
        ("straße", ["de"]),
        ("GROSS heisst", ["de"]),
        ("i\u0307STANBUL", ["tr"]),
        ("istanbul", []),
        ("FINE office", ["fi"]),
        ("abc DEF", ["wide"]),
        ("Ａ", None),
        ("CAFÉ", ["nfd"]),
        ("ol\u0065\u0301", ["nfd"]),
        ("100%", ["odd"]),
        ("%", ["odd"]),
        ("a_b", ["odd"]),
        ("_", ["odd"]),
        ("\\", ["odd"]),
        ("[X]*", ["odd"]),
        ("'", ["odd"]),
        ("\x00", ["odd"]),
        (".*", []),
        ("绿茶 咖啡", ["zh"]),
        ("绿茶 お茶", []),
        ("绿茶\t咖啡", ["zh"]),
        ("fine\noffice", ["fi"]),
        ("abc\u2028def", ["wide"]),
        ("a_b 100% A_B a_b", ["odd"]),
        ("elsewhere", []),
    ]

    async def body() -> None:
        facts = {fact_id: {"content": text} for fact_id, text in texts.items()}
        async with bench.open() as store:
            await store.apply("ann", [PutFact("a", fact_id, value) for fact_id, value in facts.items()])
            await store.apply("bob", [PutFact("a", "bobs", {"content": "绿茶 100% elsewhere"})])
            await store.apply("ann", [PutFact(None, "wide part", {"content": "绿茶 100% elsewhere"})])
            for query, ids in found:
                if ids is not None:
                    expect_same(f"the rule on {query!r}", ids, [name for name, _ in wanted_matches(facts, query, None)])
                await _expect_found(store, facts, query, None, 10)

    bench.run(body)


@check("M7")
def category_comes_before_limit(bench: Bench) -> None:
    """A better match of another category never displaces one; odd contents never match; ties go by id."""

    async def body() -> None:
        facts: dict[str, Any] = {f"best{n}": {"content": "tea", "category": "other"} for n in range(5)}
        facts |= {name: {"content": "tea and more", "category": "drinks"} for name in ("é", "z", "Z", "10", "9")}
        odd = [1, None, ["tea"], {"tea": "tea"}, True]
        facts |= {f"odd{n}": {"content": content, "category": "drinks"} for n, content in enumerate(odd)}
        facts |= {"no category": {"content": "tea"}, "no content": {"category": "drinks"}, "empty": {"content": ""}}
        facts |= {"empty category": {"content": "tea", "category": ""}}
        facts |= {"int category": {"content": "tea", "category": 1}, "cased": {"content": "tea", "category": "Drinks"}}
        async with bench.open() as store:
            await store.apply("ann", [PutFact("a", fact_id, value) for fact_id, value in facts.items()])
            for category in (None, "drinks", "other", "Drinks", "none", ""):
                for limit in (1, 3, 1_000):
                    await _expect_found(store, facts, "TEA", category, limit)
            for query in ("", " ", "\u3000\n"):
                await refused(store.search("ann", query, agent_name="a"), InvalidArgument, f"the query {query!r}")
            for bad in (0, -1, True, "1"):
                await refused(store.search("ann", "tea", agent_name="a", limit=bad), InvalidArgument, f"limit {bad!r}")

    bench.run(body)


@check("M7")
def many_facts_are_searched(bench: Bench) -> None:
    """Of 1,500 facts that match, the best are found wherever their ids stand, the last one first."""

    async def body() -> None:
        facts = {f"{n:05}": {"content": f"tea {'and more' * (n % 7)}"} for n in range(1_500)}
        facts["99999"] = {"content": "tea"}
        async with bench.open() as store:
            await store.apply("ann", [PutFact("a", fact_id, value) for fact_id, value in facts.items()])
            for limit in (1, 1_000):
                await _expect_found(store, facts, "tea", None, limit)

    bench.run(body)


# ---------------------------------------------------------------------- M9


@check("M9")
def a_change_costs_what_it_changes(bench: Bench) -> None:
    """One changed fact costs as much in a memory of 1,500 facts as in one of 10, in its part and in others."""

    async def body() -> None:
        async with bench.open() as store:
            for user_id, size in (("few", 10), ("many", 1_500)):
                facts = [PutFact(None, f"f{n}", {"content": f"fact {n}"}) for n in range(size)]
                await store.apply(user_id, facts)
                await store.apply(user_id, [PutFact("a", "f0", {}), PutBody("a", {})])
            numbers = iter(range(1_000_000))

            def changing(user_id: str) -> Iterable[tuple[str, Callable[[], Awaitable[Any]]]]:
                yield "a changed fact", lambda: store.apply(user_id, [PutFact(None, "f5", {"n": next(numbers)})])
                yield "a new fact", lambda: store.apply(user_id, [PutFact(None, f"new{next(numbers)}", {})])
                yield "a deleted fact", lambda: store.apply(user_id, [DeleteFact(None, f"f{6 + next(numbers) % 3}")])
                yield "a body", lambda: store.apply(user_id, [PutBody("a", {"n": next(numbers)})])
                yield "an idle change", lambda: store.apply(user_id, [PutFact("a", "f0", {})])
                yield "a small part loaded", lambda: store.load(user_id, agent_name="a")

            for (what, in_few), (_, in_many) in zip(changing("few"), changing("many"), strict=True):
                few, many = await work(bench, in_few), await work(bench, in_many)
                expect(many <= few * 1.5 + 20, f"{what}: about {few} steps of work as in a memory of 10", many)

    bench.run(body)


@check("M9")
def load_does_not_grow_faster_than_its_facts(bench: Bench) -> None:
    """Loading a part with 20 times the facts costs at most 20 times as much: no statement grows with the rest."""

    async def body() -> None:
        async with bench.open() as store:
            for user_id, size in (("few", 50), ("many", 1_000)):
                await store.apply(user_id, [PutFact(None, f"f{n}", {"content": f"fact {n}"}) for n in range(size)])
            few, many = await work(bench, lambda: store.load("few")), await work(bench, lambda: store.load("many"))
            expect(many <= few * 20 * 1.2 + 20, f"at most 20 times {few} steps of work", many)

    bench.run(body)


# ---------------------------------------------------------------------- M11


@check("M11")
def load_is_of_one_revision(bench: Bench) -> None:
    """While replicas write body and facts together, every load shows body, facts and revision of one apply."""

    async def body() -> None:
        space = bench.space()
        async with bench.open(space) as reader, bench.open(space) as second, bench.replica(space) as third:

            async def write(store: MemoryStore) -> None:
                for _ in range(15):
                    while True:
                        now = (await store.load("ann", agent_name="a")).revision
                        try:
                            await store.apply("ann", _marked(now + 1), expected_revision=now)
                        except RevisionConflict:
                            await asyncio.sleep(0)
                            continue
                        break

            async def read(store: MemoryStore, agent_name: str | None) -> None:
                memory = await store.load("ann", agent_name=agent_name)
                marks = [memory.body.get("n", 0), *(fact.value["n"] for fact in memory.facts)]
                whole = len(marks) == 1 + (0 if memory.revision == 0 else 2 + memory.revision % 2)
                of_one = set(marks) == {memory.revision} and (whole or agent_name is None)
                expect(of_one, f"body and facts of revision {memory.revision}", (marks, memory.facts))

            both = asyncio.gather(write(second), write(third))
            await repeated_while(both, lambda: read(reader, "a"), lambda: read(second, "a"), lambda: read(third, None))

    bench.run(body)


def _marked(n: int) -> list[Change]:
    """Return changes that leave the body and 2 or 3 facts of a part, all marked *n*: 3 if n is odd."""
    last: Change = PutFact("a", "f2", {"n": n}) if n % 2 else DeleteFact("a", "f2")
    return [PutBody("a", {"n": n}), PutBody(None, {"n": n}), *(PutFact("a", f"f{i}", {"n": n}) for i in range(2)), last]
