"""Prompts of the market's own checks: natural questions, drawn from templates by a seed. Pure.

A seed gives the same prompt always, and two seeds practically never the same one, so that a provider can
neither learn a list nor answer from a memory. The secret is the seed; the templates are public.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

# Lengths of answers that are drawn while there are no real jobs to imitate.
MAX_TOKENS = (96, 128, 160, 200, 256, 256, 300, 400, 512)
# An answer shorter than this tells little, a longer one costs more than it tells.
LEAST_TOKENS, MOST_TOKENS = 64, 512
# Words of a question alone, and of one with a text to work on.
LONG_WORDS = 80
_SLOT = re.compile(r"\{(\w+)\}")

_WORDS: dict[str, tuple[str, ...]] = {
    "name": (
        *("Amal", "Bilal", "Carla", "Dana", "Emil", "Fahad", "Grace", "Hana", "Idris"),
        *("Jonas", "Khalid", "Layla", "Marta", "Noura", "Omar", "Petra", "Qasim", "Rosa"),
        *("Salem", "Tariq", "Uma", "Viktor", "Wafa", "Yusuf", "Zeina", "Anton", "Bushra"),
        *("Chen", "Dalia", "Elena", "Faisal", "Giulia", "Hassan", "Ines"),
    ),
    "city": (
        *("Riyadh", "Jeddah", "Dammam", "Cairo", "Amman", "Istanbul", "Lisbon", "Oslo", "Nairobi", "Lima"),
        *("Toronto", "Kyoto", "Hanoi", "Prague", "Valencia", "Gdansk", "Muscat", "Tunis", "Bogota", "Perth"),
    ),
    "thing": (
        *(
            "a bicycle",
            "a sourdough loaf",
            "a rain gauge",
            "a solar panel",
            "a library card",
            "a savings plan",
        ),
        *("a wooden table", "a compost heap", "a small aquarium", "a vegetable garden", "a film camera"),
        *(
            "a water filter",
            "a street market",
            "a travel budget",
            "a chess club",
            "a beehive",
            "a sailing boat",
        ),
        *(
            "a home network",
            "a spreadsheet",
            "a school play",
            "a wedding cake",
            "a podcast",
            "a bus timetable",
        ),
    ),
    "topic": (
        *("photosynthesis", "compound interest", "plate tectonics", "supply and demand", "vaccination"),
        *("the water cycle", "binary search", "public key encryption", "fermentation", "lunar eclipses"),
        *("natural selection", "inflation", "insulation of houses", "the printing press", "desalination"),
        *("echo location", "the Silk Road", "load balancing", "rust on iron", "sleep", "migration of birds"),
        *("garbage collection in programming languages", "the ozone layer", "optical fibres", "black holes"),
        *("mortgages", "the immune system", "tides", "crop rotation", "jet engines", "cloud formation"),
    ),
    "reader": (
        *(
            "a ten-year-old",
            "a new colleague",
            "a retired engineer",
            "a first-year student",
            "my grandmother",
        ),
        *(
            "a busy manager",
            "a journalist",
            "somebody who dislikes numbers",
            "a curious neighbour",
            "a nurse",
        ),
    ),
    "form": (
        *("in three short paragraphs", "as a numbered list", "in plain words", "with one example"),
        *("in about 100 words", "with an everyday comparison", "as questions and answers", "step by step"),
        *("in a friendly tone", "without technical terms", "with the advantages first", "in five sentences"),
    ),
    "job": (
        *("teacher", "baker", "electrician", "accountant", "designer", "farmer", "pharmacist", "driver"),
        *("photographer", "software developer", "translator", "gardener", "lawyer", "plumber", "librarian"),
    ),
    "item": (
        *("headphones", "kettle", "backpack", "desk lamp", "running shoes", "keyboard", "tent", "blender"),
        *("office chair", "phone case", "suitcase", "wristwatch", "coffee grinder", "jacket", "speaker"),
    ),
    "fault": (
        *("arrived with a broken part", "stopped working after a week", "is louder than I expected"),
        *("does not fit", "has a scratch on the side", "came in the wrong colour", "was delivered too late"),
        *("gets too hot", "smells of plastic", "is missing its cable", "is smaller than in the picture"),
    ),
    "day": ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Saturday"),
    "language": ("Python", "JavaScript", "Go", "Java", "C", "Rust", "SQL", "Bash"),
    "task": (
        *("removes duplicates from a list but keeps the order", "counts the words of a text"),
        *("finds the longest line of a file", "checks whether a year is a leap year"),
        *("merges two sorted lists", "converts a temperature between two scales"),
        *("groups names by their first letter", "validates an email address roughly"),
        *("prints a table with aligned columns", "rounds an amount to the nearest five"),
        *("reverses the words of a sentence", "finds the second largest number"),
    ),
    "food": ("lentils", "dates", "rice", "chicken", "chickpeas", "aubergines", "tomatoes", "salmon", "oats"),
    "event": (
        *("the delivery from the warehouse was late", "the new printer was installed"),
        *("two customers asked for a refund", "the training was moved to next week"),
        *("the budget for travel was cut", "the meeting room was double booked"),
        *("a supplier raised its prices", "the website was down for an hour"),
        *("the survey had more answers than last year", "the cleaning plan was agreed"),
        *("a water pipe leaked on the second floor", "the intern finished the report"),
    ),
    "adjective": ("quiet", "cheap", "healthy", "reliable", "simple", "colourful", "quick", "traditional"),
    "مهنة": ("معلّم", "محاسب", "مهندس", "طبّاخ", "ممرّض", "مزارع", "مترجم", "صحفي", "مصوّر", "صيدلي"),
    "اسم": ("نورة", "سالم", "خالد", "ليلى", "بندر", "هند", "فهد", "ريم", "طارق", "سعاد", "ماجد", "أمل"),
    "موضوع": (
        "التمثيل الضوئي",
        "التضخم",
        "الطاقة الشمسية",
        "تحلية المياه",
        "طريق الحرير",
        "المد والجزر",
        "النوم",
    ),
    "مدينة": ("الرياض", "جدة", "الدمام", "أبها", "المدينة المنورة", "عمّان", "القاهرة", "مسقط"),
    "شيء": ("حديقة صغيرة", "دراجة هوائية", "ميزانية شهرية", "مكتبة منزلية", "رحلة عائلية", "متجر إلكتروني"),
}
_QUESTIONS = (
    "Explain {topic} to {reader} {form}.",
    "What should {reader} know about {topic}? Answer {form}.",
    "How do I plan {thing} if I live in {city} and have {number} euros? Please answer {form}.",
    "{name} wants to start {thing}. What are the first {small} steps, and what can go wrong?",
    "Write a {adjective} recipe with {food} and {food2} for {small} people, {form}.",
    "Write a function in {language} that {task}. Then explain it {form}.",
    "I wrote code in {language} that {task}, but it is slow with {number} entries. What could I change?",
    "Compare the work of a {job} and a {job2} {form}.",
    "Plan a weekend in {city} for {small} friends who like {topic} and {adjective} places.",
    "Write an email to {name}: the {item} bought on {day} {fault}, and I want my {number} riyals back.",
    "Give me {small} ideas for a talk about {topic} in front of {reader}, {form}.",
    "Why is {topic} important for a {job}? Answer {form}.",
    "A {item} for {number} riyals is reduced by {small} percent. What is its price now? Calculate.",
    "Describe a morning in {city} from the view of a {job} called {name}, {form}.",
    "What are the differences between {topic} and {topic2}? Answer {form}.",
    "Write a short product text for a {adjective} {item}, to be sold in {city}.",
    "My friend {name}, a {job}, asks how to learn about {topic} in {small} weeks. Make a plan.",
    "Tell a short story about {name}, {thing} and a {adjective} {job} in {city}.",
    "أنا {مهنة} من {مدينة}. اشرح لي {موضوع} في {small} نقاط، مع مثال عن {شيء}.",
    "كيف أخطط لـ{شيء} في {مدينة} بميزانية {number} ريال؟ أجب باختصار.",
    "اكتب رسالة قصيرة إلى {اسم} في {مدينة} عن {شيء} وعن {موضوع}، واذكر مبلغ {number} ريال.",
)
# Before an English question; they make it another one, as people's own circumstances do.
_OPENINGS = (
    "I am a {job} in {city}. ",
    "{name} asked me this, and I am not sure. ",
    "I have {number} riyals and {small} days. ",
    "I wrote to you about {thing} on {day}. Now something else. ",
    "Hello, {name} here. ",
    "",
)
_TASKS_ON_TEXTS = (
    "Summarise these notes in {small} sentences:\n\n{text}",
    "Turn these notes into an email to {name}:\n\n{text}",
    "Which of these points is the most urgent, and why?\n\n{text}",
    "Rewrite the following so that {reader} understands it:\n\n{text}",
    "List who has to do what, and by when:\n\n{text}",
)
_SENTENCES = (
    "On {day} {event}.",
    "{name} said that {event}.",
    "{name} from {city} will look at it by {day}.",
    "It cost {number} riyals, which is {small} percent more than planned.",
    "{name}, our {job}, suggests {thing} for the team in {city}.",
    "A customer wrote that the {item} {fault}.",
    "We still need {small} people for {day}.",
    "{name} and {name2} disagree about {topic}.",
    "The next appointment in {city} is on {day} at {hour}:30.",
)
_SYSTEMS = (
    "You are a helpful assistant.",
    "You are a helpful assistant. Answer briefly.",
    "Answer in the language of the question.",
    "You help the customers of a shop in {city}. Be polite and precise.",
    "You are an experienced {job} and explain things {form}.",
)


@dataclass(frozen=True, slots=True)
class Shape:
    """What real jobs look like, to be imitated."""

    max_tokens: int
    is_long: bool = False
    """Its prompt has more than ``LONG_WORDS`` words."""
    is_chat: bool = False
    """It comes as a conversation through `/v1`."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question, perhaps with instructions before it, and the greatest length of its answer."""

    text: str
    system: str | None
    max_tokens: int
    is_chat: bool = False


def question(seed: str, shape: Shape) -> str:
    """What identifies a prompt: its seed and its shape. All who are asked it get the same prompt."""
    length, form = "long" if shape.is_long else "short", "_chat" if shape.is_chat else ""
    return f"{seed}-{shape.max_tokens}-{length}{form}"


def of_question(question: str) -> Prompt:
    """The prompt that a question identifies."""
    _, max_tokens, form = question.rsplit("-", 2)
    return draw(question, [Shape(int(max_tokens), form.startswith("long"), form.endswith("_chat"))])


def draw(seed: str, shapes: Sequence[Shape] = ()) -> Prompt:
    """The prompt of a seed, with the length of one of the shapes; without shapes, with a usual one."""
    chance = random.Random(seed)  # noqa: S311  the seed is the secret, and it is drawn elsewhere
    shape = chance.choice(shapes) if shapes else Shape(chance.choice(MAX_TOKENS), chance.random() < 0.3)
    template = chance.choice(_TASKS_ON_TEXTS if shape.is_long else _QUESTIONS)
    opening = chance.choice(_OPENINGS) if template.isascii() and not shape.is_long else ""
    text = _filled(opening + template, chance)
    system = _filled(chance.choice(_SYSTEMS), chance) if chance.random() < 0.4 else None
    return Prompt(text, system, min(MOST_TOKENS, max(LEAST_TOKENS, shape.max_tokens)), shape.is_chat)


def _filled(template: str, chance: random.Random) -> str:
    """The template with a random word for each name; ``{job2}`` is another job than ``{job}``."""
    taken: set[str] = set()

    def word(found: re.Match[str]) -> str:
        drawn = _word(found[1].rstrip("2"), chance)
        while drawn in taken:
            drawn = _word(found[1].rstrip("2"), chance)
        taken.add(drawn)
        return drawn

    return _SLOT.sub(word, template)


def _word(slot: str, chance: random.Random) -> str:
    match slot:
        case "number":
            return str(chance.randrange(11, 9_990))
        case "small":
            return str(chance.randrange(2, 13))
        case "hour":
            return str(chance.randrange(8, 18))
        case "text":
            return " ".join(
                _filled(chance.choice(_SENTENCES), chance) for _ in range(chance.randrange(9, 25))
            )
        case _:
            return chance.choice(_WORDS[slot])
