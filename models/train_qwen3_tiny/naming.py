"""Words that names of tools and parameters are made of, and the spellings and variations of such names.

A name that could be told from the question alone teaches nothing about reading schemas, so names vary.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from models.train_qwen3_tiny import words

ACTIONS = (
    "open close start stop update create delete check rename archive reserve cancel print scan lock unlock move share sort export "
    "import approve reject register assign publish upload inspect clean test pack repair mark copy restore submit schedule label"
).split()
LOOKUPS = ("get", "find", "fetch", "lookup", "show", "read", "query", "list", "retrieve", "search")
THINGS = (
    "report invoice ticket device sensor parcel account playlist recipe valve printer camera project task note booking "
    "contract license backup server job ship robot garden door machine engine badge room desk vehicle drone exam course "
    "lesson member guest patient sample tank pump album photo poll survey budget loan shipment warehouse score rating owner status "
    "level balance history schedule address manager size weight speed"
).split()
QUALITIES = (
    "water noise light traffic tram bus ferry snow wind pollen beach wave sun rain park rent house tax ticket fuel bread milk coffee "
    "gold silver oil power ground soil road bridge river sea ship truck metal glass paper wood crime school health birth wage "
    "avalanche iceberg whale salmon bee wolf deer cherry grape olive lemon orange mango rice corn wheat sugar salt pepper cotton silk "
    "leather rubber plastic brick cement steel copper iron coal gas steam smoke dust mud sand stone cave canal harbour lighthouse dam mill "
    "castle palace temple church chapel tower tunnel metro subway elevator escalator runway airport hangar balloon rocket satellite planet "
    "comet eclipse rainbow thunder lightning hail fog frost flood drought storm cyclone volcano glacier meadow orchard vineyard barn stable "
    "kennel aquarium zoo circus carnival parade opera ballet theatre orchestra choir violin trumpet flute novel poem comic magazine newspaper "
    "museum gallery statue mural mosaic passport visa customs embassy border toll pension bonus dividend mortgage insurance patent licence "
    "election senate jury court prison police fire ambulance pharmacy vaccine allergy fever dental eye ear heart lung muscle protein vitamin "
    "breakfast lunch dinner snack dessert bakery butcher grocery laundry barber tailor shoe jacket uniform perfume jewel diamond"
).split()
MEASURES = (
    "level price index height depth time number name schedule limit speed cost fee status report map score list length width "
    "age load pressure value grade count date size fare share trend rank"
).split()
PARAMETERS = (
    "name id label color size level mode target source owner group region type count priority title category speed duration amount "
    "limit page format channel status reason code port version quality brand floor section angle depth model department"
).split()
BEFORE = (
    "api my do tool acme home user city app service ext local global smart run call handle simple main public".split()
)
AFTER = "v2 tool api service info data now request action task lookup 2 helper function service result by_name".split()
POOL = (*QUALITIES, *MEASURES, *THINGS, *words.NOUNS, *words.ITEMS)
KNOWN = frozenset((*ACTIONS, *THINGS, *PARAMETERS, *words.NOUNS, *words.ITEMS))


def spelled(rng: random.Random, parts: Sequence[str]) -> str:
    """The words in one of the usual spellings."""
    style = rng.random()
    if style < 0.62:
        return "_".join(parts)
    if style < 0.8:
        return parts[0] + "".join(part.capitalize() for part in parts[1:])
    if style < 0.87:
        return "".join(part.capitalize() for part in parts)
    if style < 0.94:
        return "-".join(parts)
    return ".".join([parts[-1], *parts[:-1]])


def words_of(name: str) -> list[str]:
    """The words of a name in any of those spellings, in lower case."""
    return [part.lower() for part in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z0-9]+", name)]


def varied(rng: random.Random, parts: Sequence[str], held_out: bool) -> list[str]:
    """The words of a name with one before or after them, or in another order."""
    form = rng.random()
    extra = rng.random() < 0.4
    if form < 0.4:
        return [words.invented(rng, held_out) if extra else rng.choice(BEFORE), *parts]
    if form < 0.8:
        return [*parts, words.invented(rng, held_out) if extra else rng.choice(AFTER)]
    return [*parts[1:], parts[0]]


def lookalike(rng: random.Random, word: str, known: Sequence[str], held_out: bool) -> str:
    """Another word of the same sort; an invented one may begin alike."""
    if word in known or word in KNOWN:
        return rng.choice([each for each in known if each != word])
    made = words.invented(rng, held_out)
    while made == word:
        made = words.invented(rng, held_out)
    return word[:3] + made[2:] if rng.random() < 0.3 and word[:3] + made[2:] != word else made
