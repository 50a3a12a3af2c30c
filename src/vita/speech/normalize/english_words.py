"""Tables of English words: months, units, currencies, abbreviations."""

from __future__ import annotations

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip
SIGNS = {"-": "minus", "−": "minus", "+": "plus", "±": "plus or minus"}
MAGNITUDES = {"k": "thousand", "K": "thousand", "M": "million", "m": "million", "mn": "million", "B": "billion",
              "b": "billion", "bn": "billion", "T": "trillion", "tn": "trillion"}  # fmt: skip
# Singular and plural, of the hundredth part too.
CURRENCIES = {
    "$": ("dollar", "dollars", "cent", "cents"), "US$": ("US dollar", "US dollars", "cent", "cents"),
    **dict.fromkeys(("C$", "CA$"), ("Canadian dollar", "Canadian dollars", "cent", "cents")),
    **dict.fromkeys(("A$", "AU$"), ("Australian dollar", "Australian dollars", "cent", "cents")),
    "HK$": ("Hong Kong dollar", "Hong Kong dollars", "cent", "cents"),
    "NZ$": ("New Zealand dollar", "New Zealand dollars", "cent", "cents"),
    "S$": ("Singapore dollar", "Singapore dollars", "cent", "cents"),
    "NT$": ("New Taiwan dollar", "New Taiwan dollars", "", ""), "R$": ("real", "reais", "centavo", "centavos"),
    "€": ("euro", "euros", "cent", "cents"), "£": ("pound", "pounds", "penny", "pence"),
    "¥": ("yen", "yen", "", ""), "₹": ("rupee", "rupees", "paisa", "paise"), "₩": ("won", "won", "", ""),
    "₽": ("ruble", "rubles", "kopek", "kopeks"),
}  # fmt: skip
CURRENCY_CODES = {
    "USD": CURRENCIES["US$"], "EUR": CURRENCIES["€"], "GBP": CURRENCIES["£"], "JPY": CURRENCIES["¥"],
    "CNY": ("yuan", "yuan", "", ""), "RMB": ("yuan", "yuan", "", ""), "CHF": ("Swiss franc", "Swiss francs", "", ""),
    "INR": CURRENCIES["₹"],
}  # fmt: skip


def _plain(**units: str) -> dict[str, tuple[str, str]]:
    return {short: (name, name + "s") for short, name in units.items()}


UNITS: dict[str, tuple[str, str]] = {
    **_plain(
        km="kilometer", m="meter", cm="centimeter", mm="millimeter", nm="nanometer", mi="mile", yd="yard",
        kg="kilogram",
        g="gram", mg="milligram", lb="pound", lbs="pound", oz="ounce", l="liter", L="liter", ml="milliliter",
        mL="milliliter", s="second", sec="second", ms="millisecond", ns="nanosecond", min="minute", h="hour", hr="hour",
        hrs="hour", W="watt", kW="kilowatt", MW="megawatt", GW="gigawatt", kWh="kilowatt hour", V="volt",
        mV="millivolt",
        mA="milliampere", mAh="milliampere hour", Pa="pascal", kPa="kilopascal", dB="decibel", cal="calorie",
        kcal="kilocalorie", kJ="kilojoule", B="byte", kB="kilobyte", KB="kilobyte", MB="megabyte", GB="gigabyte",
        TB="terabyte", PB="petabyte", KiB="kibibyte", MiB="mebibyte", GiB="gibibyte", px="pixel", ha="hectare",
        Mbit="megabit", Gbit="gigabit",
    ),
    "µm": ("micrometer", "micrometers"), "μm": ("micrometer", "micrometers"), "µs": ("microsecond", "microseconds"),
    "μs": ("microsecond", "microseconds"), "µg": ("microgram", "micrograms"), "ft": ("foot", "feet"),
    "m²": ("square meter", "square meters"), "m2": ("square meter", "square meters"),
    "km²": ("square kilometer", "square kilometers"), "km2": ("square kilometer", "square kilometers"),
    "cm²": ("square centimeter", "square centimeters"), "m³": ("cubic meter", "cubic meters"),
    "m3": ("cubic meter", "cubic meters"), "cm³": ("cubic centimeter", "cubic centimeters"),
    "km/h": ("kilometer per hour", "kilometers per hour"), "kph": ("kilometer per hour", "kilometers per hour"),
    "mph": ("mile per hour", "miles per hour"), "m/s": ("meter per second", "meters per second"),
    "m/s²": ("meter per second squared", "meters per second squared"), "mpg": ("mile per gallon", "miles per gallon"),
    "GB/s": ("gigabyte per second", "gigabytes per second"), "MB/s": ("megabyte per second", "megabytes per second"),
    "Mbps": ("megabit per second", "megabits per second"), "Gbps": ("gigabit per second", "gigabits per second"),
    "kbps": ("kilobit per second", "kilobits per second"), "Hz": ("hertz", "hertz"), "kHz": ("kilohertz", "kilohertz"),
    "MHz": ("megahertz", "megahertz"), "GHz": ("gigahertz", "gigahertz"),
    "fps": ("frame per second", "frames per second"),
    "rpm": ("revolution per minute", "revolutions per minute"), "°C": ("degree Celsius", "degrees Celsius"),
    "℃": ("degree Celsius", "degrees Celsius"), "°F": ("degree Fahrenheit", "degrees Fahrenheit"),
    "°": ("degree", "degrees"), "%": ("percent", "percent"), "‰": ("per mille", "per mille"),
    "ppm": ("part per million", "parts per million"), "k": ("thousand", "thousand"),
}  # fmt: skip
ABBREVIATIONS = {
    "Mr.": "Mister", "Mrs.": "Missus", "Ms.": "Miz", "Dr.": "Doctor", "Prof.": "Professor", "Jr.": "Junior",
    "Sr.": "Senior", "Gen.": "General", "Capt.": "Captain", "Lt.": "Lieutenant", "Sgt.": "Sergeant", "Gov.": "Governor",
    "Sen.": "Senator", "Rep.": "Representative", "Rev.": "Reverend", "e.g.": "for example", "i.e.": "that is",
    "etc.": "et cetera", "vs.": "versus", "approx.": "approximately", "incl.": "including", "dept.": "department",
    "est.": "established", "cf.": "compare", "et al.": "and others", "a.k.a.": "also known as",
    "w.r.t.": "with respect to",
    "Inc.": "Incorporated", "Ltd.": "Limited", "Corp.": "Corporation", "Ave.": "Avenue", "Blvd.": "Boulevard",
    "Mt.": "Mount", "vs": "versus", "Jan.": "January", "Feb.": "February", "Aug.": "August", "Sept.": "September",
    "Oct.": "October", "Nov.": "November", "Dec.": "December",
}  # fmt: skip
BEFORE_A_NUMBER = {
    "No.": "number", "no.": "number", "Nos.": "numbers", "Fig.": "figure", "fig.": "figure", "Figs.": "figures",
    "Eq.": "equation", "Sec.": "section", "Ch.": "chapter", "Vol.": "volume", "vol.": "volume", "p.": "page",
    "pp.": "pages", "ca.": "circa", "c.": "circa", "Art.": "article", "App.": "appendix",
}  # fmt: skip
