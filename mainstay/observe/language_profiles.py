"""What the languages look like: scripts by ranges of code points, and per language its commonest words and own letters.

The word lists are our own: function words that nearly every text of the language holds, few of them shared.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping

_RANGES: tuple[tuple[int, int, str], ...] = (
    (0x0041, 0x005A, "Latin"),
    (0x0061, 0x007A, "Latin"),
    (0x00AA, 0x00AA, "Latin"),
    (0x00BA, 0x00BA, "Latin"),
    (0x00C0, 0x00D6, "Latin"),
    (0x00D8, 0x00F6, "Latin"),
    (0x00F8, 0x02AF, "Latin"),
    (0x0370, 0x03FF, "Greek"),
    (0x0400, 0x052F, "Cyrillic"),
    (0x0531, 0x058F, "Armenian"),
    (0x05D0, 0x05F4, "Hebrew"),
    (0x0620, 0x06FF, "Arabic"),
    (0x0750, 0x077F, "Arabic"),
    (0x0900, 0x097F, "Devanagari"),
    (0x0980, 0x09FF, "Bengali"),
    (0x0A00, 0x0A7F, "Gurmukhi"),
    (0x0A80, 0x0AFF, "Gujarati"),
    (0x0B80, 0x0BFF, "Tamil"),
    (0x0C00, 0x0C7F, "Telugu"),
    (0x0C80, 0x0CFF, "Kannada"),
    (0x0D00, 0x0D7F, "Malayalam"),
    (0x0D80, 0x0DFF, "Sinhala"),
    (0x0E00, 0x0E7F, "Thai"),
    (0x0E80, 0x0EFF, "Lao"),
    (0x1000, 0x109F, "Myanmar"),
    (0x10A0, 0x10FF, "Georgian"),
    (0x1100, 0x11FF, "Hangul"),
    (0x1200, 0x139F, "Ethiopic"),
    (0x1780, 0x17FF, "Khmer"),
    (0x1E00, 0x1EFF, "Latin"),
    (0x1F00, 0x1FFF, "Greek"),
    (0x3041, 0x309F, "Kana"),
    (0x30A0, 0x30FF, "Kana"),
    (0x31F0, 0x31FF, "Kana"),
    (0x3400, 0x4DBF, "Han"),
    (0x4E00, 0x9FFF, "Han"),
    (0xAC00, 0xD7AF, "Hangul"),
    (0xF900, 0xFAFF, "Han"),
    (0xFF66, 0xFF9D, "Kana"),
    (0x20000, 0x323AF, "Han"),
)
_STARTS = tuple(start for start, _, _ in _RANGES)

ALONE: Mapping[str, str] = {
    "Greek": "el",
    "Armenian": "hy",
    "Hebrew": "he",
    "Bengali": "bn",
    "Gurmukhi": "pa",
    "Gujarati": "gu",
    "Tamil": "ta",
    "Telugu": "te",
    "Kannada": "kn",
    "Malayalam": "ml",
    "Sinhala": "si",
    "Thai": "th",
    "Lao": "lo",
    "Myanmar": "my",
    "Georgian": "ka",
    "Hangul": "ko",
    "Ethiopic": "am",
    "Khmer": "km",
}
"""Scripts that one language writes nearly all of the text in."""

WORDS: Mapping[str, Mapping[str, str]] = {
    "Latin": {
        "en": "the of and to is are was were that this with for it you your my i have has not be what how can could "
        "would "
        "please from they their which there when will do does we an in on as me at if or but "
        "where who why here no after about so been had any just should would",
        "de": "der die das und ist sind war nicht ein eine einen einem einer mit für auf den dem des ich sie wir wie "
        "was "
        "kann können haben hat bitte zu von im auch es mir mein meine ihr wird werden bei nach aus aber wenn "
        "dass diese dieser dieses warum "
        "alle gibt noch oder um wo so schon nur mehr muss soll",
        "fr": "le la les des du et est sont était pas un une avec pour dans que qui je vous nous il elle ce cette mon "
        "ma "
        "mes votre sur au aux ne plus comment quel quelle être avoir merci mais en de par ai c'est",
        "es": "el la los las de del y es son era no un una con para por que quien yo usted nosotros ella este esta mi "
        "mis "
        "su sus en al como más cómo cuál está están tengo puede gracias pero se lo qué hay me",
        "it": "il lo la i gli le di del della dei delle e è sono era non un una con per che chi io lei noi questo "
        "questa "
        "mio mia nel nella al alla come più quale ho ha può grazie ma si mi da sul anche",
        "pt": "o a os as de do da dos das e é são era não um uma com para por que quem eu você nós ele ela este esta "
        "meu "
        "minha no na nos em ao como mais qual está estão tenho pode obrigado mas se isso foi",
        "nl": "de het een en is zijn was niet met voor op van ik jij u wij hij zij dit dat mijn uw in te aan ook hoe "
        "wat "
        "kan kunnen heb heeft er maar als bij naar uit wordt worden om je deze graag",
        "sv": "och är det att en ett inte med för på av jag du vi han hon som den de min mitt kan har var om till från "
        "hur "
        "vad men när eller också efter ska skulle mig finns blir vill",
        "da": "og er det at en et ikke med for på af jeg du vi han hun som den de min mit kan har var nogen noget blev "
        "nu vores mine ingen om til fra hvordan "
        "hvad men når eller også efter skal skulle mig findes bliver vil hvor jeres fordi",
        "nb": "og er det at en et ikke med for på av jeg du vi han hun som den de min mitt kan har var noen noe ble nå "
        "våre mine ingen om til fra hvordan "
        "hva men når eller også etter skal skulle meg finnes blir vil hvor deres fordi",
        "fi": "ja on ei se että en ole olen oli ovat mutta tai kun niin minun minä sinä hän me te mitä miten voi voin "
        "voiko "
        "kuinka tämä tämän joka jos myös kanssa ovatko mikä mukaan vain vielä sen",
        "pl": "i w z na nie się to jest są był do że o jak co po za od dla przez przy ale lub czy mnie moje mój moja "
        "mam "
        "może ten ta tego jego który która które proszę już bardzo tak także",
        "cs": "a je jsou na se v z že to ne není byl by do jak co po za od pro při ale nebo mi můj moje mám může ten "
        "ta "
        "který která které prosím už také jsem jste si který bylo s být",
        "sk": "a je sú na sa v z že to nie bol by do ako čo po za od pre pri ale alebo mi môj moje mám môže ten tá "
        "ktorý "
        "ktorá ktoré prosím už tiež som ste si bolo s byť nie",
        "hu": "a az és nem hogy is egy van volt vagy de mert ez meg csak már még ki mi mit hogyan kell lehet nekem az "
        "én "
        "ha mint azt ezt vagyok tud kérem köszönöm nincs lesz után szeretném",
        "ro": "și este sunt era nu un o cu pentru că care eu în la de din pe mai ce cum unde am are poate acest "
        "această "
        "meu mea sau dar fost să vă mulțumesc după fi se al ale lui",
        "tr": "ve bir bu için ile de da ne mi mı var yok değil olarak daha çok ama gibi ben sen biz siz nasıl kadar "
        "sonra "
        "olan nedir lütfen benim şu her en mu mü veya ki oldu bana",
        "hr": "i je su na se u s da to ne nije bio do kako što po za od pri ali ili mi moj moja imam može taj ta koji "
        "koja "
        "koje molim već također sam ste biti iz hvala gdje nisam",
        "ca": "el la els les de del i és són era no un una amb per que qui jo vostè nosaltres aquest aquesta meu meva "
        "en "
        "al com més quin està tinc pot gràcies però es ho els hi ha dels",
        "id": "yang dan di ini itu dengan untuk dari adalah tidak ada saya anda kami akan bisa dapat pada ke oleh "
        "sudah "
        "apa bagaimana tetapi atau juga karena dalam mohon terima kasih belum bagi",
        "vi": "và là của có không tôi bạn cho được một các với này trong như những để đã thì làm thế nào khi ở xin rất",
    },
    "Cyrillic": {
        "ru": "и в не на что это я с как по но из у за от так же для вы мы он она они мой моя мне меня можно нет есть "
        "было был быть если или пожалуйста к о до при только уже",
        "uk": "і в не на що це я з як по але із у за від так для ви ми він вона вони мій моя мені мене можна немає є "
        "було "
        "був бути якщо або будь ласка до при тільки вже та й",
        "bg": "и в не на че това аз с как по но от за да се съм е са вие ние той тя те ми моля може няма има беше ако "
        "или "
        "до при само вече ще ли са към мога",
        "sr": "и у не на да то ја са како по али из за од се је су ви ми он она они мој моја могу нема има био ако или "
        "до "
        "при само већ што који молим нисам",
        "be": "і ў не на што гэта я з як па але із у за ад так для вы мы ён яна яны мой мая мне можна няма ёсць было "
        "быў "
        "калі ці да толькі ўжо",
    },
    "Arabic": {
        "ar": "في من على إلى عن أن هذا هذه التي الذي ما لا هل كيف مع كان أنا هو هي لم لن قد ثم أو يمكن كل بعد ذلك منذ "
        "لقد أين أي",
        "fa": "در از به که این آن را با است برای هم من ما شما او چه چگونه یا نیست هست می شود کرد بود تا یک خود اگر",
        "ur": "میں سے کے کی کا ہے ہیں اور کو یہ وہ نے پر کیا ہو تھا نہیں مجھے آپ ہم کیسے کر لیے بھی اگر یا ایک",
    },
    "Devanagari": {
        "hi": "है हैं में के की का को से और यह वह ने पर क्या नहीं मुझे मैं आप हम कैसे लिए भी था थी हो रहा कर एक",
        "mr": "आहे आहेत मध्ये च्या आणि हे ते मी तुम्ही आम्ही नाही काय कसे मला साठी होते पण की एक या केला",
        "ne": "छ छन् मा को का लाई र यो त्यो म तपाईं हामी छैन के कसरी मलाई लागि पनि थियो भने हो गर्न एक",
    },
}
"""Per script and language, its commonest words."""

LETTERS: Mapping[str, str] = {
    "de": "ß",
    "es": "ñ¿¡",
    "pt": "ãõ",
    "pl": "łąęśźżćń",
    "hu": "őű",
    "tr": "ğış",
    "cs": "řěů",
    "sk": "ľĺŕ",
    "ro": "țșăţ",
    "vi": "ơưđạảấầẩậắằặẹẻếềểệịọỏốồổộớờởợụủứừửựỳỷỹ",
    "ru": "ыэё",
    "uk": "іїєґ",
    "bg": "ъ",
    "sr": "јљњћђџ",
    "be": "ў",
    "ar": "ةىإ",
    "fa": "پچژگ",
    "ur": "ٹڈڑےں",
    "mr": "ळ",
}
"""Letters that few or no other languages of the same script use; a word with one of them counts for its language."""


def script_of(letter: str) -> str | None:
    """The script of one character, None where it is no letter or of a script not in the table."""
    point = ord(letter)
    at = bisect_right(_STARTS, point) - 1
    return _RANGES[at][2] if at >= 0 and point <= _RANGES[at][1] else None
