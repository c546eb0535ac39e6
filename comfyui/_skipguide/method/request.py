# Built by `make comfyui` from src/skipguide/method/request.py; do not edit.
"""GuidanceRequest: everything that guide() was asked for, as one value.

It is the same value in Python, YAML, the record of a video and the ledger of a run. In plain data
everything that has its default is left out:

    terms:
      - {layers: [8], scale: 1.0}                       # STG
      - {layers: [4, "single:7"], scale: [1.0, 0.5, 0.0], skip: attention, stop: 0.5}
      - {layers: {random: 0.1}, scale: 0.25}            # other layers at every step
      - {kind: slg, layers: [9]}                        # Skip Layer Guidance
      - {weak: without-lora, scale: 0.5}                # AutoLoRA, or {lora: name, scale: 0.3}
      - {kind: modality, scale: 3.0, audio_scale: 2.0}  # of LTX-2
    rescale: 0.7
    audio_rescale: 1.0
    cfg: {name: apg, eta: 0.2}
    nag: {scale: 5.0, stop: 0.5}                        # away from the negative prompt
    restart: [{window: [0.4, 0.6], repeats: 2}]
    share_prefix: false
    exact: false

or `schedule: [{sigma: [0.9, 1.1], layers: [11], scale: 4.0}, ...]` instead of terms."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..method import cfg_rules, loras, parsing, rule_table, validate
from ..method.masks import PushMask
from ..method.protocols import PlainData, ReadOnlyData
from ..method.restart import Restart
from ..method.reuse import Reuse
from ..method.terms import NAG, SLG, STG, Bin, Modality, Random, Schedule

Term = STG | SLG

CFG_RULES: dict[str, type[cfg_rules.CFGRule]] = {row.name: row.kind for row in rule_table.ROWS}
PLAIN_RULES = (cfg_rules.Interval, cfg_rules.CFGReuse)  # they leave the formula of CFG as it is
TERM_KINDS: dict[str, type[Term]] = {"stg": STG, "slg": SLG, "modality": Modality}
# Of no consequence for what is computed.
_NOT_PLAIN = ("source", "preset_rescale", "preset_options")
_ALWAYS_WRITTEN = ("layers", "scale", "sigma")
_TUPLES = ("sigma", "window", "gains")  # parts that are lists in plain data


@dataclasses.dataclass(frozen=True)
class GuidanceRequest:
    """All arguments of one call of guide(), checked; guide() explains each of them.

    Args:
        terms: those of a schedule are its bins' own, in the order of its bins.
        schedule: replaces the windows and scales of `terms`.
        rescale: phi of the guided steps, from 0 to 1; the bins of a schedule have their own.
        rescale_space: "prediction" or "data".
        orthogonalize: needs two STG terms or more.
        cfg: replaces the formula of CFG.
        restart: intervals of the run that are done again.
        share_prefix: whether a weak pass begins at its first skipped layer.
        budget: forward passes a step, above 1; None computes everything at every step.
        exact: whether [uncond, cond] runs in halves, which makes results bit-equal.
        nag: guides attention by the negative prompt.
        audio_rescale: phi of the sound; None is the same as `rescale`.
        replace_own: whether the guidance of the pipeline's own is switched off.
        skip_step: after each step that runs so many take its estimate of the clean data again.

    Raises:
        ValueError: for a number or a name out of range, and for parts that exclude each other.
    """

    terms: tuple[Term, ...] = ()
    schedule: Schedule | None = None
    rescale: float = 0.0
    rescale_space: str = "prediction"
    orthogonalize: bool = False
    cfg: cfg_rules.CFGRule | None = None
    restart: tuple[Restart, ...] = ()
    share_prefix: bool = True
    budget: float | None = None
    exact: bool = True
    nag: NAG | None = None
    audio_rescale: float | None = None
    replace_own: bool = False
    skip_step: int = 0

    def __post_init__(self) -> None:
        if self.cfg is not None and not isinstance(self.cfg, cfg_rules.CFGRule):
            raise ValueError(
                f"cfg must be one of {', '.join(kind.__name__ for kind in CFG_RULES.values())}, but"
                f" got {self.cfg!r}. Write cfg=APG()."
            )
        validate.check_number("rescale", self.rescale, 0.0, 1.0, "0 is off, the paper uses 0.7")
        if self.rescale_space not in ("prediction", "data"):
            raise ValueError(
                f'rescale_space must be "prediction" or "data", but got {self.rescale_space!r}.'
                " Choose one of them."
            )
        if self.audio_rescale is not None:
            validate.check_number("audio_rescale", self.audio_rescale, 0.0, 1.0, "0 is off")
        for name in ("rescale", "audio_rescale"):
            self._check_rescale(name, getattr(self, name))
        if not isinstance(self.replace_own, bool):
            raise ValueError(
                f"replace_own must be True or False, but got {self.replace_own!r}. Leave it out, or"
                " pass True to switch guidance of the pipeline's own off."
            )
        if not isinstance(self.exact, bool):
            raise ValueError(
                f"exact must be True or False, but got {self.exact!r}. Leave it out for bit-equal"
                " results, or pass exact=False for one batch where the pipeline has one."
            )
        self._check_orthogonalize()
        self._check_budget()
        self._check_nag()
        self._check_skip_step()

    def _check_skip_step(self) -> None:
        validate.check_integer("skip_step", self.skip_step, 0, "Leave it out for 0.")
        others = {
            "a budget": self.budget is not None, "restart": bool(self.restart),
            "CFGZero with zero_steps above 0": self.zero_steps > 0, "NAG": self.nag is not None,
        }  # fmt: skip
        beside = [name for name, on in others.items() if on]
        if self.skip_step and beside:
            raise ValueError(
                "skip_step leaves out whole steps, so that it does not go together with"
                f" {' and '.join(beside)}. Leave one of them out."
            )

    def _check_rescale(self, name: str, phi: float | None) -> None:
        if phi and self.schedule is not None:
            raise ValueError(
                f"{name}={phi!r} cannot be combined with a Schedule. Set rescale on each Bin"
                " instead."
            )
        if phi and not self.terms and not self.replaces_cfg:
            raise ValueError(
                f"{name} acts on steps with a term or a CFG rule, but got {phi!r} without any. Add"
                f" a term, or leave {name} out."
            )

    def _check_budget(self) -> None:
        if self.budget is None:
            return
        validate.check_number("budget", self.budget, 1.0, note="c alone is 1 a step, CFG is 2")
        if self.budget == 1:
            raise ValueError(
                "budget must be above 1, for c is computed at every step, but got 1. CFG alone is"
                " 2; write budget=2.0, or budget=1.2 for a model without CFG."
            )
        if isinstance(self.cfg, cfg_rules.CFGReuse) or any(reuse.is_on for reuse in self.reuses):
            raise ValueError(
                "a budget chooses at which steps u and the weak passes are computed, but every= or"
                " CFGReuse says so too. Leave one of them out."
            )
        if isinstance(self.cfg, cfg_rules.RectifiedCFG):
            raise ValueError(
                "a budget keeps c - u from step to step, but RectifiedCFG computes u elsewhere than"
                " c. Leave one of them out."
            )

    def _check_nag(self) -> None:
        if self.nag is not None and not isinstance(self.nag, NAG):
            raise ValueError(f"nag must be a NAG, but got {self.nag!r}. Write NAG(scale=5.0).")
        if self.nag and any(getattr(term, "weak", None) is not None for term in self.terms):
            raise ValueError(
                "NAG acts inside of the guided model and in its weak passes, but a term has"
                " another model as weak=. Leave one of them out, or skip layers."
            )

    def _check_orthogonalize(self) -> None:
        several = self.schedule is None and sum(isinstance(term, STG) for term in self.terms) > 1
        if not isinstance(self.orthogonalize, bool) or (self.orthogonalize and not several):
            number = len(self.terms)
            came = (
                "a Schedule, one term at a time"
                if self.schedule
                else f"{number} term{'s' * (number > 1)}"
            )
            raise ValueError(
                "orthogonalize must be True or False, and True needs two STG terms or more, but"
                f" got {self.orthogonalize!r} with {came}. Leave it out, or add a term."
            )

    @property
    def replaces_cfg(self) -> bool:
        """True if a formula other than CFG combines u and c at every step."""
        return self.cfg is not None and not isinstance(self.cfg, PLAIN_RULES)

    @property
    def rule_needs_cfg(self) -> bool:
        """True if there is a rule that speaks of u, and so needs CFG."""
        speaks_of_u = not isinstance(self.cfg, cfg_rules.TAG) or self.cfg.align > 0
        return self.cfg is not None and speaks_of_u

    @property
    def zero_steps(self) -> int:
        """Return how many steps at the beginning predict zero (CFGZero)."""
        return self.cfg.zero_steps if isinstance(self.cfg, cfg_rules.CFGZero) else 0

    @property
    def reuses(self) -> list[Reuse]:
        """Return when c - p of each STG term is computed, then when c - u of a CFGReuse is."""
        found = [term.reuse for term in self.terms if isinstance(term, STG)]
        return [*found, self.cfg.reuse] if isinstance(self.cfg, cfg_rules.CFGReuse) else found

    @property
    def decides_in_run(self) -> bool:
        """True if predictions or costs of a run decide at which steps something is computed."""
        return self.budget is not None or any(reuse.every == "auto" for reuse in self.reuses)

    @property
    def is_plain(self) -> bool:
        """True if the request asks for nothing but the pipeline's own CFG."""
        return (
            not self.terms
            and self.schedule is self.cfg is self.budget is self.nag is None
            and not self.restart
            and not self.skip_step
        )

    @property
    def data_space_features(self) -> str:
        """The parts that need estimates of the clean video, for errors; "" if none does."""
        phis = (
            [self.rescale, self.audio_rescale]
            if self.schedule is None
            else [entry.rescale for entry in self.schedule.bins]
        )
        named = {
            'APG in the space of the data (space="data")': (
                isinstance(self.cfg, cfg_rules.APG) and self.cfg.space == "data"
            ),
            'rescaling in the space of the data (rescale_space="data")': (
                self.rescale_space == "data" and any(phis)
            ),
            "skip_step": self.skip_step > 0,
        }
        return " and ".join(name for name, on in named.items() if on)

    def with_seed(self, seed: int) -> GuidanceRequest:
        """Return the request with `seed` for every term and bin whose own seed is 0, the default.

        Skipped layers and token orders that are drawn then follow the seed of the video.
        """
        schedule = self.schedule
        if schedule is not None:
            bins = [_seeded(entry, seed) for entry in schedule.bins]
            schedule = dataclasses.replace(schedule, bins=bins)
        terms = tuple(_seeded(term, seed) for term in self.terms)
        return dataclasses.replace(self, terms=terms, schedule=schedule)

    def guide_arguments(self) -> tuple[list[Term | Schedule | NAG], PlainData]:
        """Return the terms and the keyword arguments of the call of guide() that asks for this."""
        options = {
            "rescale": self.rescale,
            "rescale_space": self.rescale_space,
            "orthogonalize": self.orthogonalize,
            "cfg": self.cfg,
            "restart": self.restart or None,
            "share_prefix": self.share_prefix,
            "budget": self.budget,
            "exact": self.exact,
            "audio_rescale": self.audio_rescale,
            "replace_own": self.replace_own,
            "skip_step": self.skip_step,
        }
        terms = list(self.terms) if self.schedule is None else [self.schedule]
        return [*terms, *([] if self.nag is None else [self.nag])], options

    def to_dict(self) -> PlainData:
        """Return the request as plain data, ready for JSON or YAML; defaults are left out.

        Raises:
            ValueError: for a term with `weak`, since a model is no plain data.
        """
        found: PlainData = {}
        if self.schedule is not None:
            found["schedule"] = [_to_plain(entry) for entry in self.schedule.bins]
        elif self.terms:
            found["terms"] = [_term_to_plain(term) for term in self.terms]
        if self.rescale:
            found["rescale"] = float(self.rescale)
        for name, default in (
            ("rescale_space", "prediction"), ("orthogonalize", False), ("share_prefix", True),
            ("exact", True), ("replace_own", False), ("skip_step", 0),
        ):  # fmt: skip
            if getattr(self, name) != default:
                found[name] = getattr(self, name)
        for name in ("budget", "audio_rescale"):
            if getattr(self, name) is not None:
                found[name] = float(getattr(self, name))
        if self.cfg is not None:
            name = next(name for name, kind in CFG_RULES.items() if type(self.cfg) is kind)
            found["cfg"] = {"name": name, **_to_plain(self.cfg)}
        if self.nag is not None:
            found["nag"] = _to_plain(self.nag)
        if self.restart:
            found["restart"] = [_to_plain(restart) for restart in self.restart]
        return found

    @classmethod
    def from_dict(cls, content: ReadOnlyData) -> GuidanceRequest:
        """Read a request from plain data, as `to_dict` writes it.

        Args:
            content: the arguments of guide() by their names. Layers are all that
                `parsing.parse_layers` reads, or {"random": share}; a term, a rule or a restart may
                be a text, as in "layers=8 scale=1", "apg eta=0.2", "0.4:0.6 repeats=2".

        Raises:
            ValueError: for an unknown name, a missing part, or a value out of range.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        problems = validate.ProblemCollector()
        with problems.attempt():
            _check_names("guidance", content, known)
            content = {name: value for name, value in content.items() if value is not None}
        if not isinstance(content, Mapping):
            problems.raise_all()
        found = {name: value for name, value in content.items() if name in known}
        with problems.attempt():
            found |= _read_terms(found)
        if found.get("cfg") is not None:
            with problems.attempt():
                found["cfg"] = read_cfg_rule(found["cfg"])
        if found.get("nag") is not None:
            with problems.attempt():
                found["nag"] = read_nag(found["nag"])
        if found.get("restart") is not None:
            with problems.attempt():
                rows = _listed(found["restart"], "window")
                found["restart"] = _read_each(rows, lambda row: _make("restart", Restart, row))
        problems.raise_all()
        return cls(**found)


# --- from plain data ------------------------------------------------------------------------------


def _read_terms(found: ReadOnlyData) -> PlainData:
    """Read `schedule` and `terms` of a request."""
    if found.get("schedule") is not None:
        if found.get("terms"):
            raise ValueError(
                "a schedule has what is skipped in its bins, but terms came too. Leave one of"
                " them out."
            )
        schedule = read_schedule(found["schedule"])
        terms = tuple(entry.term() for entry in active_bins(schedule))
        return {"schedule": schedule, "terms": terms}
    if found.get("terms") is None:
        return {}
    return {"terms": _read_each(_listed(found["terms"], "layers"), read_term)}


def _read_each(rows: Sequence[Any], read: Callable[[Any], Any]) -> tuple[Any, ...]:
    """Read every row, and tell all that is wrong at once."""
    problems, found = validate.ProblemCollector(), []
    for row in rows:
        with problems.attempt():
            found.append(read(row))
    problems.raise_all()
    return tuple(found)


def read_term(row: ReadOnlyData) -> Term:
    """Read a term: STG, unless it says `kind: slg` or `kind: modality`.

    Raises:
        ValueError: for an unknown kind or name, or a value out of range.
    """
    if not isinstance(row, Mapping):
        raise ValueError(
            f"a term must have layers and a scale, but got {row!r}. Write {{layers: [8], scale:"
            " 1.0}."
        )
    problems = validate.ProblemCollector()
    kind = row.get("kind", "stg")
    if not isinstance(kind, str) or kind not in TERM_KINDS:
        problems.messages.append(
            f"kind of a term must be one of {', '.join(TERM_KINDS)}, but got {kind!r}. Leave it"
            " out for stg."
        )
        kind = "stg"  # which has all parts that a term may have
    parts = {name: value for name, value in row.items() if name != "kind"}
    if not parts.get("layers") and parts.get("weak") is None and kind != "modality":
        known = ["kind", *_part_names(TERM_KINDS[kind])]
        meant = validate.find_misspelt("layers", parts, known)
        advice = "Did you mean 'layers'?" if meant else "Write {layers: [8], scale: 1.0}."
        problems.messages.append(f"a term must name its layers, but got {dict(row)!r}. {advice}")
        parts = {name: value for name, value in parts.items() if name != meant} | {"layers": [0]}
    made = None
    with problems.attempt():
        made = _make("a term", TERM_KINDS[kind], parts)
    problems.raise_all()
    assert made is not None
    return made


def read_schedule(rows: Any) -> Schedule:
    """Read a schedule from a list of its bins.

    Raises:
        ValueError: for no bins, an unknown name, a bin without `sigma`, or bins that overlap.
    """
    listed = [rows] if isinstance(rows, Mapping) else rows
    if not isinstance(listed, (list, tuple)):
        raise ValueError(
            f"schedule must be a list of bins, but got {rows!r}. Write [{{sigma: [0.9, 1.1],"
            " layers: [11], scale: 2.0}]."
        )
    return Schedule(list(_read_each(listed, lambda row: _make("schedule", Bin, row))))


def read_cfg_rule(given: Any) -> cfg_rules.CFGRule:
    """Read a CFG rule: {"name": "apg", "eta": 0.2}, or "apg eta=0.2".

    Raises:
        ValueError: for an unknown rule or part, or a value out of range.
    """
    row = parsing.parse_parts(given, "name") if isinstance(given, str) else given
    name = row.get("name") if isinstance(row, Mapping) else row
    if not isinstance(name, str) or name not in CFG_RULES:
        advice = "Write cfg: {name: apg}, or --cfg-rule apg."
        if name is None and isinstance(row, Mapping):
            known = ["name", *(part for kind in CFG_RULES.values() for part in _part_names(kind))]
            if validate.find_misspelt("name", row, known):
                name, advice = dict(row), "Did you mean 'name'?"
        else:
            advice = validate.did_you_mean(str(name), CFG_RULES, advice)
        raise ValueError(f"cfg must be one of {', '.join(CFG_RULES)}, but got {name!r}. {advice}")
    return _make("cfg", CFG_RULES[name], {key: row[key] for key in row if key != "name"})


def read_nag(given: Any) -> NAG:
    """Read a NAG: {"scale": 5.0, "tau": 2.5}, or "5 tau=2.5", or the scale alone.

    Raises:
        ValueError: for an unknown part, or a value out of range.
    """
    row = parsing.parse_parts(given, "scale") if isinstance(given, str) else given
    if isinstance(row, (int, float)) and not isinstance(row, bool):
        row = {"scale": row}
    return _make("nag", NAG, row)


def _listed(value: Any, first: str) -> tuple[Any, ...]:
    found = parsing.parse_list(value, first)
    if not isinstance(found, tuple):
        raise ValueError(f"guidance takes a list here, but got {value!r}. Write a list.")
    return found


def _part_names(kind: Any) -> list[str]:
    """Return the parts that a term, a bin, a rule or a restart has in plain data."""
    unused = {*_NOT_PLAIN, *getattr(kind, "FOREIGN_ARGUMENTS", ())}
    return [field.name for field in dataclasses.fields(kind) if field.name not in unused]


def _required_parts(kind: Any) -> list[str]:
    """Return the parts that have no default, such as the sigma of a bin."""
    return [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is field.default_factory is dataclasses.MISSING
    ]


def _make(what: str, kind: Any, row: Any) -> Any:
    """Make a term, a bin, a rule or a restart from its parts."""
    known = _part_names(kind)
    if not isinstance(row, Mapping):
        raise ValueError(f"{what} must have parts such as {known[0]}, but got {row!r}. Name them.")
    problems = validate.ProblemCollector()
    with problems.attempt():
        _check_names(what, row, known)
    made = None
    with problems.attempt():
        parts = {name: _from_plain(name, row[name]) for name in row if name in known}
        lacking = [name for name in _required_parts(kind) if name not in parts]
        if not lacking:
            try:
                made = kind(**parts)
            except TypeError as error:
                raise ValueError(
                    f"{what} has a part of a wrong kind: {error}. Correct it."
                ) from error
        elif not all(validate.find_misspelt(name, row, known) for name in lacking):
            raise ValueError(f"{what} lacks a part: {', '.join(map(repr, lacking))}. Add it.")
    problems.raise_all()
    return made


def _from_plain(name: str, value: Any) -> Any:
    if name == "layers":
        return _read_layers(value)
    if name == "weak" and value is not None:
        return loras.read_weak(value)
    if name == "every" and isinstance(value, float) and value.is_integer():
        return int(value)  # 2.0, as a table of numbers has it
    return tuple(value) if name in _TUPLES and isinstance(value, list) else value


def _read_layers(value: Any) -> list[int | str] | Random:
    if isinstance(value, str) and value.startswith("random:"):
        value = parsing.parse_parts(value.replace(":", "=", 1), "random")
    if isinstance(value, Mapping):
        if set(value) != {"random"}:
            raise ValueError(
                f"layers must be a list, or {{random: share}}, but got {dict(value)!r}. Write"
                " {random: 0.1}."
            )
        return Random(value["random"])
    return list(parsing.parse_layers(value))


def _check_names(what: str, given: Any, known: Sequence[str]) -> None:
    if not isinstance(given, Mapping):
        raise ValueError(
            f"{what} must have lines such as {known[0]}: ..., but got {given!r}. Correct it."
        )
    unknown = [str(name) for name in given if name not in known]
    if unknown:
        has = ", ".join(known) or "none"
        advice = dict.fromkeys(validate.did_you_mean(name, known) for name in unknown)
        raise ValueError(
            f"{what} has the parts {has}, but got {', '.join(unknown)}. {' '.join(advice)}"
        )


# --- to plain data --------------------------------------------------------------------------------


def _term_to_plain(term: Term) -> PlainData:
    if isinstance(term, STG) and term.weak_model is not None:
        raise ValueError(
            "a term with weak= holds a model, which cannot be written down. Use guide() from"
            " Python."
        )
    kind = next(name for name, kind in TERM_KINDS.items() if type(term) is kind)
    return {**({} if kind == "stg" else {"kind": kind}), **_to_plain(term)}


def _to_plain(made: Any) -> PlainData:
    """Return a term, bin, rule or restart by its parts; defaults are left out."""
    found = {}
    for field in dataclasses.fields(made):
        value = getattr(made, field.name)
        written = field.name in _ALWAYS_WRITTEN and value not in ((), [], None)
        if field.name not in _NOT_PLAIN and (written or value != field.default):
            found[field.name] = _plain_value(value, str(field.type))
    if isinstance(made, Bin) and not made.scale:
        found.pop("scale", None)
    return found


def _plain_value(value: Any, type_name: str) -> Any:
    """Numbers that may be fractions are floats, so that 1 and 1.0 are one value."""
    if isinstance(value, Random):
        return {"random": float(value.share)}
    if isinstance(value, (loras.WithoutLoRA, loras.WithLoRA)):
        return loras.to_plain(value)
    if isinstance(value, PushMask):
        return value.to_plain()
    if isinstance(value, (list, tuple)):
        return [_plain_value(entry, type_name) for entry in value]
    is_float = "float" in type_name and isinstance(value, int) and not isinstance(value, bool)
    return float(value) if is_float else value


def _seeded(entry: Any, seed: int) -> Any:
    drawn = entry.seed == 0 and not isinstance(entry, Modality)
    return dataclasses.replace(entry, seed=seed) if drawn else entry


# --- what guide() was given -----------------------------------------------------------------------


def unpack_terms(
    given: Sequence[Any], allow_empty: bool
) -> tuple[Schedule | None, tuple[Term, ...]]:
    """Return a Schedule if there is one, and the terms: a Schedule's are those of its bins.

    Args:
        given: terms, or lists of them, as in a preset of several; or one Schedule.
        allow_empty: whether there is something to do without any term.

    Raises:
        ValueError: for no terms, something else, or a Schedule beside others.
    """
    terms = [
        term for entry in given for term in (entry if isinstance(entry, (list, tuple)) else [entry])
    ]
    if len(terms) == 1 and isinstance(terms[0], Schedule):
        return terms[0], tuple(entry.term() for entry in active_bins(terms[0]))
    if not (terms or allow_empty) or not all(isinstance(term, (STG, SLG)) for term in terms):
        came = ", ".join(type(term).__name__ for term in terms) or "none"
        raise ValueError(
            f"guide() needs one or more STG or SLG terms, or one Schedule, but got {came}. Write"
            " guide(pipe, STG(layers=[34]))."
        )
    return None, tuple(terms)


def take_nag(given: Sequence[Any]) -> tuple[list[Any], NAG | None]:
    """Return what guide() was given besides a NAG, and the NAG.

    Raises:
        ValueError: for several of them.
    """
    rows = [list(entry) if isinstance(entry, (list, tuple)) else [entry] for entry in given]
    found = [term for row in rows for term in row if isinstance(term, NAG)]
    if len(found) > 1:
        raise ValueError(
            f"guide() takes one NAG, for there is one negative prompt, but got {len(found)}."
            " Leave the others out."
        )
    others = [[term for term in row if not isinstance(term, NAG)] for row in rows]
    return others, found[0] if found else None


def active_bins(schedule: Schedule) -> list[Bin]:
    """Return the bins that have a term."""
    return [entry for entry in schedule.bins if entry.scale > 0]


def published_rescale(terms: Sequence[Term]) -> float:
    """Return phi as it was published with a preset; 0 without one."""
    return max((term.preset_rescale for term in terms if isinstance(term, STG)), default=0.0)


def fill_in_published(terms: Sequence[Term], given: ReadOnlyData) -> PlainData:
    """Return arguments of guide() with what was published with a preset in the place of None.

    A rescaling that was given is that of the sound too, unless that one was given as well.

    Args:
        given: `rescale`, `audio_rescale`, `rescale_space`, `replace_own`.
    """
    found: PlainData = {"rescale_space": "prediction", "replace_own": False}
    for term in terms:
        found |= term.preset_options if isinstance(term, STG) else {}
    if given["rescale"] is not None:
        found.pop("audio_rescale", None)
    found["rescale"] = published_rescale(terms)
    return {**given, **found, **{name: given[name] for name in given if given[name] is not None}}
