"""Text as it is spoken."""

from __future__ import annotations

import importlib.util
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vita.speech.normalize import announce_code, is_speakable, spoken_text

ENGLISH = [
    # money
    ("It costs $12.50.", "It costs twelve dollars and fifty cents."),
    ("$1.01, £0.99 and €3", "one dollar and one cent, ninety-nine pence and three euros"),
    ("$3 million, $3.5B and 20€", "three million dollars, three point five billion dollars and twenty euros"),
    ("USD 5", "five US dollars"),
    # dates and times
    ("On March 15, 2024 we met.", "On March fifteenth, twenty twenty-four we met."),
    ("2024-03-15", "March fifteenth, twenty twenty-four"),
    ("3/15/2024", "March fifteenth, twenty twenty-four"),
    ("15 March 2024", "March fifteenth, twenty twenty-four"),
    ("In 1999, 2005 and 2010.", "In nineteen ninety-nine, two thousand and five and twenty ten."),
    ("the 1990s, the '80s", "the nineteen nineties, the eighties"),
    ("at 10:30 and 9:05 PM", "at ten thirty and nine oh five p m"),
    ("at 10:00, 5 pm", "at ten o'clock, five p m"),
    ("2019-2024", "twenty nineteen to twenty twenty-four"),
    # numbers
    ("1,234.5", "one thousand two hundred and thirty-four point five"),
    ("-40 and 007", "minus forty and zero zero seven"),
    ("1/2, 3/4 and 5 1/2", "one half, three quarters and five and one half"),
    ("the 1st, 22nd and 101st", "the first, twenty-second and one hundred and first"),
    ("3:2", "three to two"),
    ("0.5 or .5", "zero point five or zero point five"),
    ("12345678901234567890", "one two three four five six seven eight nine zero " * 2),
    ("1920x1080", "one thousand nine hundred and twenty by one thousand and eighty"),
    ("version 1.2.3", "version one point two point three"),
    ("#5", "number five"),
    # operators
    ("a != b", "a is not equal to b"),
    ("if a !== b", "if a is not equal to b"),
    ("if a == b && c <= d", "if a equals b and c is at most d"),
    ("x >= 3 || y", "x is at least three or y"),
    ("a => b", "a to b"),
    ("A -> B --> C", "A to B to C"),
    ("x <- y", "x from y"),
    ("$a != b$", "a is not equal to b"),
    ("3 -> 4", "three to four"),
    ("Stop! = is a sign", "Stop! equals is a sign"),
    ("C# and F#.", "C sharp and F sharp."),
    ("C#7 vs. C++", "C sharp seven versus C plus plus"),
    ("the #hashtag", "the hashtag hashtag"),
    # ranges
    ("10:30-11:30", "ten thirty to eleven thirty"),
    ("9:00 – 17:00", "nine o'clock to seventeen hundred"),
    ("10:30am-11:30 am", "ten thirty a m to eleven thirty a m"),
    ("9am-5pm", "nine a m to five p m"),
    ("$5M-$10M", "five million dollars to ten million dollars"),
    ("$5-10 million", "five to ten million dollars"),
    ("10:30:45", "ten thirty and forty-five seconds"),
    # fractions
    ("1½ cups, ½ cup", "one and one half cups, one half cup"),
    ("2¾ and ⅓", "two and three quarters and one third"),
    ("1½-2 hours", "one and one half to two hours"),
    ("1½ km, 1/2 kg", "one and one half kilometers, one half kilogram"),
    ("after 9/11", "after nine eleven"),
    ("9/11/2001", "September eleventh, two thousand and one"),
    ("8/11 and 50/50", "eight elevenths and fifty-fifty"),
    # dates with dots
    ("5.3.2024", "March fifth, twenty twenty-four"),
    ("on 31.12.2024.", "on December thirty-first, twenty twenty-four."),
    ("5.13.2024", "five point thirteen point two thousand and twenty-four"),
    # money with magnitudes
    ("$5M", "five million dollars"),
    ("€3.2bn", "three point two billion euros"),
    ("£2m, $1.5b, $5K", "two million pounds, one point five billion dollars, five thousand dollars"),
    ("50¢", "fifty cents"),
    # IP addresses
    ("192.168.1.1", "one nine two dot one six eight dot one dot one"),
    ("10.0.0.255:8080.", "one zero dot zero dot zero dot two five five port eight zero eight zero."),
    ("10.0.0.0/8", "one zero dot zero dot zero dot zero slash eight"),
    ("2001:db8::1", "two zero zero one colon d b eight colon colon one"),
    ("256.1.1.1", "two hundred and fifty-six point one point one point one"),
    # units
    ("50% of 5 km", "fifty percent of five kilometers"),
    ("1 kg, 1.5 kg", "one kilogram, one point five kilograms"),
    ("-5 °C at 100 km/h", "minus five degrees Celsius at one hundred kilometers per hour"),
    ("20m², 3.5GHz, 16 GB", "twenty square meters, three point five gigahertz, sixteen gigabytes"),
    ("5-10 km", "five to ten kilometers"),
    # phone numbers, addresses
    ("Call +1 (555) 123-4567.", "Call plus one, five five five, one two three, four five six seven."),
    ("555-1234", "five five five, one two three four"),
    ("See https://www.example.com/a-b?x=1.", "See www dot example dot com slash a dash b."),
    ("Mail john.doe@example.com now", "Mail john dot doe at example dot com now"),
    # abbreviations
    ("Dr. Smith vs. Mr. Jones, e.g. here", "Doctor Smith versus Mister Jones, for example here"),
    ("St. Louis, No. 5, Fig. 3", "Saint Louis, number five, figure three"),
    # formulas
    ("x^2 + y^3 = z", "x squared plus y cubed equals z"),
    (r"\(E = mc^2\)", "E equals mc squared"),
    (r"$\frac{a}{b} \leq \sqrt{x}$", "the fraction a over b, is at most the square root of x"),
    ("2 * 3 = 6", "two times three equals six"),
    # names with digits
    ("COVID-19, A4, H2O, 3D", "COVID nineteen, A four, H two O, three D"),
    ("R&D, C++", "R and D, C plus plus"),
    # markup
    ("# A **bold** title", "A bold title"),
    ("- [x] an item with `code` and [a link](https://example.com/x)", "an item with code and a link"),
    ("![a cat](cat.png)", "a cat"),
    ("| a | b |", "a, b"),
    ("<b>bold</b><br/> and &amp;", "bold and and"),
    ("snake_case and *emphasis*", "snake case and emphasis"),
    # emoji
    ("Great 👍🏽 job!", "Great job!"),
    ("👍", "thumbs up"),
    # punctuation
    ("“Quoted” (aside) — and don’t…", "Quoted, aside, and don't."),
    ("What?!", "What?!"),
    # template
    ("☜Hello<|im_end|> world<unk>", "Hello world"),
    ("a\u200bb\x07c", "ab c"),
]
# The same, by what was wrong once.
MINUS_AND_RANGES = [
    ("-$5, -€20 and -5 €", "minus five dollars, minus twenty euros and minus five euros"),
    ("He lost -$1.2 million", "He lost minus one point two million dollars"),
    ("Tea - $5 and $5-$10", "Tea, five dollars and five dollars to ten dollars"),
    ("5%-7%, 3%–5%", "five percent to seven percent, three percent to five percent"),
    ("20°-25°", "twenty degrees to twenty-five degrees"),
    ("20°C-25°C", "twenty degrees Celsius to twenty-five degrees Celsius"),
    ("5km–10km", "five kilometers to ten kilometers"),
    ("10 kg - 3 kg = 7 kg", "ten kilograms minus three kilograms equals seven kilograms"),
    ("5-10 €", "five to ten euros"),
    (
        "7-3=4, 4 = 7-3 and 3-5 days",
        "seven minus three equals four, four equals seven minus three and three to five days",
    ),
    ("n-1, x-1, 2n-1", "n minus one, x minus one, two n minus one"),
    ("y = -x + 3 and x^2-1", "y equals minus x plus three and x squared minus one"),
    ("k-12 schools, F-16, vitamin b-12", "k twelve schools, F sixteen, vitamin b twelve"),
    ("GMT-5, UTC-8 and UTC-05:30", "GMT minus five, UTC minus eight and UTC minus five thirty"),
    ("10 / 2 = 5. What is 10 / 2?", "ten divided by two equals five. What is ten divided by two?"),
    ("11 / 72 / 112 ms", "eleven seventy-two one hundred and twelve milliseconds"),
]
FORMULAS = [
    ("2**3, `2**10` and x**2", "two cubed, two to the power of ten and x squared"),
    ("2**10 = 1024", "two to the power of ten equals one thousand and twenty-four"),
    ("**bold**, **Step 1**(optional) and **2**3 = 8**", "bold, Step one, optional, and two cubed equals eight"),
    ("x*y*z and 2*x*3", "x times y times z and two times x times three"),
    ("`width*height` and `__init__`", "width times height and init"),
    ("un*frigging*believable", "unfriggingbelievable"),
    (r"$\frac{-b \pm c}{2a}$", "the fraction minus b plus or minus c over two a,"),
    (r"$e^{-x}$ and 10^(-3)", "e to the power of minus x and ten to the power of minus three"),
    ("e^(x+1)", "e to the power of x plus one"),
    ("1.5×10^8 and 3x4", "one point five times ten to the power of eight and three by four"),
    (r"$$\begin{aligned} x &= 1 \\ y &= 2 \end{aligned}$$", "x equals one, y equals two"),
    (r"\begin{cases} 1 & y > 0 \end{cases}", "one y is greater than zero"),
]
TIMES_AND_NUMBERS = [
    ("2026-11-27T10:30:00Z", "November twenty-seventh, twenty twenty-six at ten thirty UTC"),
    ("2026-11-27T10:30:00+02:00", "November twenty-seventh, twenty twenty-six at ten thirty UTC plus two"),
    ("June 5–7, 2024", "June fifth to seventh, twenty twenty-four"),
    ("July 4-6, Dec 24–26", "July fourth to sixth, December twenty-fourth to twenty-sixth"),
    ("4–6 July 2024", "July fourth to sixth, twenty twenty-four"),
    ("24-26 December", "December twenty-fourth to twenty-sixth"),
    ("June 28 – July 3", "June twenty-eighth to July third"),
    ("12-25-2024 and 25/12/2024", " and ".join(["December twenty-fifth, twenty twenty-four"] * 2)),
    ("in his 20s, her mid-30s", "in his twenties, her mid-thirties"),
    ("in their 20s, 30s and 40s", "in their twenties, thirties and forties"),
    ("It runs in 20s, under 30s", "It runs in twenty seconds, under thirty seconds"),
    ("100s of users", "hundreds of users"),
    ("7B, 70B, 64B and 512 B", "seven billion, seventy billion, sixty-four bytes and five hundred and twelve bytes"),
    ("Llama-3.1-8B", "Llama three point one, eight billion"),
    ("3B-7B", "three billion to seven billion"),
    ("1.2M users of 3M tape", "one point two million users of three M tape"),
    ("3h 20m, 5m 30s", "three hours twenty minutes, five minutes thirty seconds"),
    ("CA$5, NZ$5", "five Canadian dollars, five New Zealand dollars"),
    ("NT$100, R$5, S$5", "one hundred New Taiwan dollars, five reais, five Singapore dollars"),
    ("MX$5", "MX five dollars"),
    ("1-800-555-0199", "one, eight zero zero, five five five, zero one nine nine"),
    ("123-45-6789 and a 4-4-2", "one two three, four five, six seven eight nine and a four, four, two"),
    ("25 000 people, 10 000 km", "twenty-five thousand people, ten thousand kilometers"),
    ("25\u00a0300 people", "twenty-five thousand three hundred people"),
    ("5'10\" and 6'2\"", "five feet ten inches and six feet two inches"),
    ("on Main St. The shop", "on Main Street. The shop"),
    ("East St. Louis, Wall St., St. Mary", "East Saint Louis, Wall Street, Saint Mary"),
]
BRACKETS = [
    ("Replace <username> with <your name>", "Replace username with your name"),
    ("git clone <url>", "git clone url"),
    ("List<String>, Map<String, List<int>>", "List String, Map String, List int"),
    ("if a <b and c> d then", "if a is less than b and c is greater than d then"),
    ('<i class="x">x</i> <think>y</think> <!-- z -->', "x y"),
    ("Use `<div>`.", "Use div."),
    ("Title\n=====\nText", "Title, Text"),
    ("=====\nText", "Text"),
]
SILENT = ["", " ", "...", "---", "=====", "|---|---|", "***", "☞", "<|im_end|>", "\x00\x1b", "“”", "!?"]
CHINESE = [
    ("a != b", "a 不等于 b"),
    ("a => b，x >= 3", "a 到 b，x 大于等于 三"),
    ("1½", "一又二分之一"),
    ("$5M和€3.2bn", "五百万美元和三十二亿欧元"),
    ("9/11事件", "九一一事件"),
    ("192.168.1.1:80", "一九二点一六八点一点一端口八零"),
    ("C#语言", "C sharp 语言"),
    ("价格是¥12.50，共1,234.5元。", "价格是十二点五零元，共一千二百三十四点五元。"),
    ("2024-03-15", "二零二四年三月十五日"),
    ("今天是2024年3月15日，气温25°C。", "今天是二零二四年三月十五日，气温二十五摄氏度。"),
    ("现在10:30，占50%。", "现在十点三十分，占百分之五十。"),
    ("3-5天", "三到五天"),
    ("x=5，3+4=7。", "x等于五，三加四等于七。"),
    ("电话13812345678", "电话幺三八幺二三四五六七八"),
    ("GPT-4很强", "GPT 四很强"),
    ("12345678901234567890个", "一二三四五六七八九零一二三四五六七八九零个"),
    (r"$\frac{1}{2}$的$x^2$", "二分之一 的 x的平方"),
    ("**重点**：（括号）“引号”——破折号……", "重点：括号，引号，破折号。"),
    ("发到a@b.com", "发到 a 艾特 b 点 com"),
    ("-$5和-€20", "负五美元和负二十欧元"),
    ("CA$5和NT$100", "五加元和一百新台币"),
    ("5-3=2", "五减三等于二"),
    ("10 / 2 = 5", "十除以二等于五"),
    ("20°C-25°C", "二十摄氏度到二十五摄氏度"),
    ("电话010-12345678", "电话零幺零，幺二三四五六七八"),
    ("400-800-1234", "四零零，八零零，幺二三四"),
    ("138-0013-8000", "幺三八，零零幺三，八零零零"),
    ("最新v1.2.3", "最新版本一点二点三"),
    ("2024.3.15", "二零二四年三月十五日"),
    ("2026-11-27T10:30:00Z", "二零二六年十一月二十七日 十点三十分UTC"),
    ("n-1个，UTC-8", "n减一个，UTC减八"),
    ("y = -x + 3", "y等于负x加三"),
    (r"$e^{-x}$和$\frac{-b}{2a}$", "e的负x次方 和 二a分之负b"),
    ("2**3，10^(-3)", "二的立方，十的负三次方"),
    ("和C#", "和C sharp"),
    ("IP是192.168.0.1:8080", "IP是一九二点一六八点零点一端口八零八零"),
    ("👍", "拇指向上"),
]


@pytest.mark.parametrize(("written", "spoken"), ENGLISH + MINUS_AND_RANGES + FORMULAS + TIMES_AND_NUMBERS + BRACKETS)
def test_english(written: str, spoken: str) -> None:
    assert spoken_text(written, "en") == spoken.strip()


@pytest.mark.parametrize(("written", "spoken"), CHINESE)
def test_chinese(written: str, spoken: str) -> None:
    if importlib.util.find_spec("wetext") is None and any(c in "0123456789" for c in written):
        pytest.skip("SKIPPED LOUDLY: wetext is not installed")
    assert spoken_text(written, "zh") == spoken


@pytest.mark.parametrize("text", SILENT)
def test_nothing_to_say(text: str) -> None:
    assert spoken_text(text, "en") == spoken_text(text, "zh") == spoken_text(text, "de") == ""


@pytest.mark.parametrize(
    "text", ["The quick brown fox jumps over the lazy dog.", "Yes, it is; isn't it?", "A well-known fact."]
)
def test_plain_prose_stays_as_it_is(text: str) -> None:
    assert spoken_text(text, "en") == text


def test_other_languages_lose_markup_and_keep_their_numbers() -> None:
    assert spoken_text("**Das** kostet 5 Euro 😀.", "de") == "Das kostet 5 Euro."
    assert spoken_text("नमस्ते **दुनिया**", "hi") == "नमस्ते दुनिया"


@pytest.mark.parametrize(
    ("written", "language", "spoken"),
    [
        ("a != b, C# -> 5", "de", "a ist ungleich b, C sharp nach 5"),
        ("Das kostet €3,20 & mehr.", "de-AT", "Das kostet 3,20 Euro und mehr."),
        ("10:30-11:30", "fr", "10:30 à 11:30"),
        ("5 €, x >= 3", "es", "5 euros, x es como mínimo 3"),
        ("a@b.it costa $5.", "IT", "a chiocciola b.it costa 5 dollari."),
        ("a == b", "pt_BR", "a é igual a b"),
        ("a == b", "sv", "a b"),
    ],
)
def test_signs_of_other_languages(written: str, language: str, spoken: str) -> None:
    assert spoken_text(written, language) == spoken


def test_code_is_announced() -> None:
    assert announce_code("python", "en") == "Here is a block of python code."
    assert announce_code("", "en-US") == "Here is a block of code."
    assert announce_code("python", "zh") == "这里是一段 python 代码。"


@given(text=st.text(max_size=300), language=st.sampled_from(["en", "zh", "de"]))
def test_any_text_gives_one_line_of_words(text: str, language: str) -> None:
    spoken = spoken_text(text, language)
    assert spoken == "" or is_speakable(spoken)
    assert not re.search(r"[\n\t\x00-\x1f*`|<>\\☜☞☟]", spoken) and "  " not in spoken
    if language == "en":
        assert not re.search("[0-9]", spoken)


SYMBOLS = st.text(alphabet="0123456789.,:/-+%$€£°#@&()[]{}*_`~^=<>|\\ \n'\"abcAMXpmkst年月日点第个度", max_size=80)


@given(text=SYMBOLS)
def test_any_mix_of_digits_and_symbols_becomes_words(text: str) -> None:
    assert not re.search("[0-9]", spoken_text(text, "en"))
    spoken_text(text, "zh")
