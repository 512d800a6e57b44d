"""Sentences as people write them to a support desk, by language."""

SENTENCES: dict[str, tuple[str, ...]] = {
    "en": (
        "Where is my parcel? I ordered it two weeks ago and nobody answers the phone.",
        "Please summarise the attached report in three bullet points for the board.",
        "The application crashes whenever we upload a picture larger than five megabytes.",
    ),
    "de": (
        "Wo bleibt mein Paket? Ich habe es vor zwei Wochen bestellt und niemand geht ans Telefon.",
        "Bitte fassen Sie den Bericht in drei Punkten für den Vorstand zusammen.",
        "Die Anwendung stürzt ab, sobald wir ein Bild hochladen, das größer als fünf Megabyte ist.",
    ),
    "fr": (
        "Où est mon colis ? Je l'ai commandé il y a deux semaines et personne ne répond au téléphone.",
        "Veuillez résumer le rapport ci-joint en trois points pour la direction.",
        "L'application plante dès que nous envoyons une image qui dépasse cinq mégaoctets.",
    ),
    "es": (
        "¿Dónde está mi paquete? Lo pedí hace dos semanas y nadie contesta al teléfono.",
        "Por favor, resume el informe adjunto en tres puntos para la dirección.",
        "La aplicación se cierra cuando subimos una imagen de más de cinco megas.",
    ),
    "it": (
        "Dov'è il mio pacco? L'ho ordinato due settimane fa e nessuno risponde al telefono.",
        "Per favore, riassumi la relazione allegata in tre punti per la direzione.",
        "L'applicazione si blocca quando carichiamo un'immagine che è più grande di cinque megabyte.",
    ),
    "pt": (
        "Onde está a minha encomenda? Fiz o pedido há duas semanas e ninguém atende o telefone.",
        "Por favor, resuma o relatório em anexo em três pontos para a diretoria.",
        "O aplicativo fecha quando enviamos uma imagem que tem mais de cinco megabytes.",
    ),
    "nl": (
        "Waar blijft mijn pakje? Ik heb het twee weken geleden besteld en niemand neemt de telefoon op.",
        "Vat het bijgevoegde rapport samen in drie punten voor de directie.",
        "De applicatie loopt vast wanneer wij een afbeelding uploaden die groter is dan vijf megabyte.",
    ),
    "sv": (
        "Var är mitt paket? Jag beställde det för två veckor sedan och ingen svarar i telefon.",
        "Sammanfatta den bifogade rapporten i tre punkter för styrelsen, tack.",
        "Appen kraschar när vi laddar upp en bild som är större än fem megabyte.",
    ),
    "da": (
        "Hvor er min pakke? Jeg bestilte den for to uger siden, og ingen tager telefonen. Hvad skal jeg gøre?",
        "Jeg vil gerne vide, hvordan jeg får mine penge tilbage efter returneringen.",
    ),
    "nb": (
        "Hva skjer med pakken? Jeg bestilte den for to uker siden, og ingen svarer meg. Hva skal jeg gjøre?",
        "Kan du si meg hva som skjer etter at jeg har sendt mitt kort tilbake?",
    ),
    "fi": (
        "Missä pakettini on? Tilasin sen kaksi viikkoa sitten, mutta kukaan ei vastaa puhelimeen.",
        "Voisitko kertoa minulle, miten voin vaihtaa salasanan, kun en pääse tililleni?",
    ),
    "pl": (
        "Gdzie jest moja paczka? Zamówiłem ją dwa tygodnie temu i nikt nie odbiera telefonu.",
        "Proszę streścić załączony raport w trzech punktach dla zarządu.",
        "Aplikacja zawiesza się, gdy przesyłamy zdjęcie większe niż pięć megabajtów.",
    ),
    "cs": (
        "Kde je můj balík? Objednal jsem ho před dvěma týdny a nikdo nezvedá telefon.",
        "Aplikace spadne, když nahrajeme obrázek, který je větší než pět megabajtů.",
    ),
    "sk": (
        "Kde je môj balík? Objednal som ho pred dvoma týždňami a nikto nedvíha telefón.",
        "Aplikácia padá, keď nahráme obrázok, ktorý je väčší ako päť megabajtov.",
    ),
    "hu": (
        "Hol van a csomagom? Két hete rendeltem meg, és senki nem veszi fel a telefont.",
        "Kérem, foglalja össze a csatolt jelentést három pontban az igazgatóság számára.",
    ),
    "ro": (
        "Unde este coletul meu? L-am comandat acum două săptămâni și nimeni nu răspunde la telefon.",
        "Vă rog să rezumați raportul atașat în trei puncte pentru conducere.",
    ),
    "tr": (
        "Paketim nerede? İki hafta önce sipariş verdim ve telefona kimse cevap vermiyor.",
        "Şifremi nasıl değiştirebilirim? Hesabıma giremiyorum ve bana e-posta gelmiyor.",
    ),
    "hr": (
        "Gdje je moj paket? Naručio sam ga prije dva tjedna i nitko se ne javlja na telefon.",
        "Molim vas, kako mogu promijeniti lozinku? Nisam dobio poruku koja mi je obećana.",
    ),
    "ca": (
        "On és el meu paquet? El vaig demanar fa dues setmanes i ningú no respon al telèfon.",
        "Com puc canviar la contrasenya? Tinc un problema amb aquest compte i no hi puc entrar.",
    ),
    "id": (
        "Di mana paket saya? Saya sudah memesan dua minggu lalu dan tidak ada yang menjawab telepon.",
        "Bagaimana saya bisa mengganti kata sandi untuk akun ini?",
    ),
    "vi": ("Gói hàng của tôi ở đâu? Tôi đã đặt hai tuần trước và không ai trả lời điện thoại.",),
    "ru": (
        "Где моя посылка? Я заказал её две недели назад, и никто не отвечает на звонки.",
        "Пожалуйста, кратко изложите приложенный отчёт для правления.",
    ),
    "uk": (
        "Де моя посилка? Я замовив її два тижні тому, і ніхто не відповідає на дзвінки.",
        "Будь ласка, підсумуйте доданий звіт у трьох пунктах для керівництва.",
    ),
    "bg": (
        "Къде е моята пратка? Поръчах я преди две седмици и никой не вдига телефона. Моля, кажете ми какво да правя.",
    ),
    "sr": ("Где је мој пакет? Наручио сам га пре две недеље и нико се не јавља на телефон.",),
    "be": (
        "Дзе мая пасылка? Я замовіў яе два тыдні таму, і ніхто не адказвае на званкі. Што рабіць, калі яе ўжо няма?",
    ),
    "el": ("Πού είναι το δέμα μου; Το παρήγγειλα πριν από δύο εβδομάδες.",),
    "he": ("איפה החבילה שלי? הזמנתי אותה לפני שבועיים ואף אחד לא עונה.",),
    "ar": ("أين طردي؟ لقد طلبته منذ أسبوعين ولا أحد يرد على الهاتف.",),
    "fa": ("بسته من کجاست؟ دو هفته پیش سفارش دادم و هیچ کس به تلفن جواب نمی‌دهد.",),
    "ur": ("میرا پارسل کہاں ہے؟ میں نے دو ہفتے پہلے آرڈر کیا تھا اور کوئی فون نہیں اٹھاتا۔",),
    "hi": ("मेरा पार्सल कहाँ है? मैंने दो हफ्ते पहले ऑर्डर किया था और कोई फोन नहीं उठाता है।",),
    "mr": ("माझे पार्सल कुठे आहे? मी दोन आठवड्यांपूर्वी ते मागवले होते आणि कोणी फोन उचलत नाही.",),
    "zh": ("我的包裹在哪里？我两周前下的单，没有人接电话。",),
    "ja": ("荷物はどこですか。二週間前に注文しましたが、誰も電話に出ません。",),
    "ko": ("제 소포는 어디에 있나요? 2주 전에 주문했는데 아무도 전화를 받지 않아요.",),
    "th": ("พัสดุของฉันอยู่ที่ไหน ฉันสั่งซื้อเมื่อสองสัปดาห์ก่อน",),
}
"""Per language, what it should be told by."""
