"""The topics of generated requests, each with its own words and a few plain sentences.

The oracle composes its answers of these sentences. They have no comma, no word in capitals, no abbreviation and no
digit, so that whatever an instruction asks for comes from the oracle itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from toolrl import is_held_out
from toolrl_envs.common import Split


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic.

    Attributes:
        name: As used in a request: "write about NAME".
        words: Words related to it, in lower case.
        sentences: Sentences about it.
    """

    name: str
    words: tuple[str, ...]
    sentences: tuple[str, ...]


def topics_of(split: Split) -> tuple[Topic, ...]:
    """The topics of one split."""
    return tuple(topic for topic in _TOPICS if is_held_out(topic.name) == (split == "test"))


def sentences_about(name: str | None) -> tuple[str, ...]:
    """The sentences about a topic; empty if its name is unknown."""
    return next((topic.sentences for topic in _TOPICS if topic.name == name), ())


def _topic(name: str, words: str, text: str) -> Topic:
    return Topic(name, tuple(words.split()), tuple(f"{part.strip()}." for part in text.split(".") if part.strip()))


_TOPICS = (
    _topic(
        "keeping bees",
        "hive honey queen nectar swarm",
        "Bees live together and share their work. A keeper wears a veil and moves slowly. Smoke makes them calm. "
        "In summer the boxes grow heavy. Some of the harvest stays for the cold months.",
    ),
    _topic(
        "baking bread",
        "flour yeast dough oven crust",
        "Bread begins with water and time. Kneading takes patience and warm hands. A loaf rests before it is baked. "
        "The kitchen smells good for hours. Fresh slices taste best with butter.",
    ),
    _topic(
        "night trains",
        "sleeper platform carriage ticket conductor",
        "A night on the rails saves a day. The lights of small towns pass outside. Passengers wake near the border. "
        "Breakfast comes on a small tray. Arriving early feels like a gift.",
    ),
    _topic(
        "growing tomatoes",
        "soil seedling harvest trellis compost",
        "The plants like sun and steady water. Young shoots need shelter from wind. Side shoots are taken off by hand. "
        "Ripe fruit comes away easily. A warm wall helps in cool places.",
    ),
    _topic(
        "learning the piano",
        "melody rhythm pedal octave rehearsal",
        "Short daily practice works better than long sessions. Both hands learn apart before they join. "
        "A teacher hears what a student misses. Slow playing shows the weak spots. Old songs stay in the fingers.",
    ),
    _topic(
        "mountain huts",
        "summit trail shelter ridge valley",
        "Huts stand where a day of walking ends. Guests share one long table. Supplies are carried up by mule. "
        "The warden knows the weather. Boots dry by the stove at night.",
    ),
    _topic(
        "public libraries",
        "shelf reader catalogue archive lending",
        "A library is open to all who come. Children hear stories in the morning. Quiet rooms help people study. "
        "Old papers are kept in a cool cellar. The staff find what nobody else can.",
    ),
    _topic(
        "city bicycles",
        "helmet pedal lane saddle commuter",
        "Riding to work wakes the body. A good lock is worth its price. Rain is less bad than it looks. "
        "Wide paths make new riders feel safe. Small repairs take only a few tools.",
    ),
    _topic(
        "lighthouses",
        "beacon harbour keeper lantern coast",
        "The tower warns ships of rocks. Its lamp turns through the dark. Storms shake the stairs. "
        "Most of them now work alone. Visitors climb up for the view.",
    ),
    _topic(
        "making cheese",
        "curd cellar rennet milk rind",
        "Fresh milk is warmed with care. The curds are cut and pressed. Salt keeps the wheels firm. "
        "Months of rest bring out the taste. Each farm has its own way.",
    ),
    _topic(
        "migrating birds",
        "flock wing nest feather wetland",
        "Many birds fly south before winter. They rest at the same lakes each year. Stars help them find the way. "
        "Volunteers count them at dawn. The young follow the old.",
    ),
    _topic(
        "chess clubs",
        "opening pawn bishop tournament clock",
        "Members meet on a weekday evening. Beginners learn from their losses. Strong players explain their plans. "
        "Coffee helps through a long game. A handshake ends every match.",
    ),
    _topic(
        "desert plants",
        "cactus drought spine root bloom",
        "Plants of dry lands store water. Deep stems reach far below the sand. Flowers open at night for moths. "
        "Rain can change the land in a day. Many seeds wait for years.",
    ),
    _topic(
        "model railways",
        "locomotive tunnel signal scenery track",
        "A small world fits on a table. Patience makes the hills look real. Wires hide below the boards. "
        "Friends bring their own wagons. The first full run is a feast.",
    ),
    _topic(
        "tea houses",
        "kettle leaf teapot steam porcelain",
        "Guests leave their hurry at the door. The water must not be too hot. Small cups are filled many times. "
        "Talk is quiet and slow. The garden outside belongs to the room.",
    ),
    _topic(
        "river ferries",
        "ferry deck rope current crossing",
        "A boat links the two banks. The trip takes a few minutes. Fog can stop it for hours. "
        "Farmers cross with their carts. The pilot greets each of them.",
    ),
    _topic(
        "pottery",
        "clay kiln glaze wheel vase",
        "Wet hands shape the spinning lump. A bowl dries for a week. Fire turns it hard and bright. "
        "Cracks teach more than success. Every piece is a little different.",
    ),
    _topic(
        "star gazing",
        "telescope comet planet constellation eclipse",
        "Dark skies are far from towns. The eye needs time to adapt. A warm coat matters most. "
        "Old maps still show the way. The moon hides the faint lights.",
    ),
    _topic(
        "school gardens",
        "pupil watering seed spade herb",
        "Children learn by digging. Each class cares for one bed. The kitchen cooks what they grow. "
        "Worms are welcome guests. Summer help comes from parents.",
    ),
    _topic(
        "wooden boats",
        "hull mast sail varnish keel",
        "Old boats need care every spring. Oak bends when it is steamed. Tar keeps the water out. "
        "Builders pass their skill on. The first launch draws a crowd.",
    ),
    _topic(
        "village markets",
        "stall vendor basket apple square",
        "The square fills before sunrise. Prices are shouted and laughed about. Neighbours trade news as well. "
        "The best fruit goes first. By noon only straw is left.",
    ),
    _topic(
        "winter sports",
        "slope sledge skate glove snowfall",
        "Cold air makes the cheeks red. Children race down the hill. Beginners fall and laugh. "
        "Hot soup waits at home. Days are short but bright.",
    ),
    _topic(
        "radio plays",
        "microphone actor studio script listener",
        "Sound alone builds the scene. A door and footsteps tell a lot. Voices must differ clearly. "
        "The team records in one day. People follow them in the kitchen.",
    ),
    _topic(
        "repair cafes",
        "toaster solder screw volunteer lamp",
        "Broken things get a new chance. Helpers show how it is done. Most faults are small. "
        "Cake is part of the plan. Less ends up as waste.",
    ),
)
