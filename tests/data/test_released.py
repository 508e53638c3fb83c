"""Every file of the released corpus has its kind, language and stage by its name."""

from collections import Counter
from fnmatch import fnmatchcase
from itertools import permutations

import pytest

from f2jax.data.released import files_after_stage_1, find_released
from f2jax.data.skip_list import SkipList
from f2jax.data.sources.schema import source_of, to_records
from f2jax.errors import UserError

# The names in the lists of the authors' code, by which it routes the loss (recipe 3.1).
CLASSIFICATION = """amazon_counterfactual amazon_polarity imdb toxic_conversations cola mela waimai
nordic_classification_danish nordic_classification_swedish nordic_classification_norwegian"""
CLUSTERING = """amazon_reviews banking77 emotion mtop_intent mtop_domain massive_scenario massive_intent
tweet_sentiment_extraction arxiv_clustering_p2p arxiv_clustering_s2s biorxiv_clustering_p2p biorxiv_clustering_s2s
medrxiv_clustering_p2p medrxiv_clustering_s2s reddit_clustering_p2p reddit_clustering_s2s
stackexchange_clustering_p2p stackexchange_clustering_s2s twentynewsgroups sib200 mlsum_clustering_de
mlsum_clustering_es mlsum_clustering_fr mlsum_clustering_ru bactrianx_language_classification bactrianx_translation
europarl xcodeeval_translation tnews thucnews csl cedr ru_sentiment"""
SINGLE = """arguana snli mnli anli paq squad stackexchange msmarco natural_questions hotpotqa fever eli5 fiqa bioasq
nfcorpus miracl mrtidy scifact qqp stackoverflowdupquestions sts12 sts22 stsbenchmark amazon_qa cnn_dm coliee paq_part2
pubmedqa s2orc_abstract_citation s2orc_title_abstract s2orc_title_citation sentence_compression specter triviaqa xsum
stackexchange_part2 stackexchangedupquestions_s2s stackexchangedupquestions_p2p sts22_multilingual aya muri muri_part2
cosqa synthetic_text2sql codefeedback_mt codefeedback_st stackoverflow_qa ocgi ocgi_part2 ocr2_cpp ocr2_python procqa
natural_reasoning natural_reasoning_part2 multialpaca coig oasst2 wildchat wildchat_part2 wildchat_part3 m2lingual
infinstruct infinstruct_part2 cmedqav2 medinstruct huatuo_kgqa huatuo_encqa bq yahoo_answers dureader t2ranking gooaq
medicalqa_ru medi2 medi2_part2 openorca openorca_part2 medical_instruction multicpr_medical healthcaremagic
multicpr_ecom ocnli esci cord19 cmcqa cmnli dbpedia fever_nl hotpotqa_nl koalpaca koalpaca_realqa komagpie lawzhidao
lcqmc lcsts llm_retrieval_data mailruqa medical_flashcards medmcqa medqa_en medqa_zh medquad mscinli
nordic_retrieval_danish nordic_retrieval_norwegian nordic_retrieval_swedish nordic_sts_danish nordic_sts_norwegian
nordic_sts_swedish nordic_text_matching_danish nordic_text_matching_norwegian nordic_text_matching_swedish parsquad
persian_qa pquad qbqtc refgpt ru_instruct siberian_dataset simclue webmedqa wikiomnia"""
PROGRAMS = "C# C++ C D Go Haskell Java Javascript Kotlin Ocaml PHP Pascal Perl Python Ruby Rust Scala"
FAMILIES = {
    "webfaq_": """ara aze ben bul cat ces dan deu ell eng est fas fin fra heb hin hrv hun ind isl ita jpn kat kaz kor
lav lit mar msa nld nor pol por ron rus slk slv spa sqi srp swe tgl tha tur ukr urd uzb vie zho""",
    "mmarco_": """arabic chinese dutch french german hindi indonesian italian japanese portuguese russian spanish
vietnamese""",
    "miracl_": "ar bn en es fa fi fr hi id ja ko ru sw te th zh",
    "mrtidy_": "arabic bengali finnish indonesian japanese korean russian swahili telugu thai",
    "mldr_": "ar de en es fr hi it ja ko pt ru th zh",
    "mkqa_": """ar da de en es fi fr he hu it ja km ko ms nl no pl pt ru sv th tr vi zh_cn zh_hk zh_tw""",
    "mlsum_retrieval_": "de es fr ru tr",
    "unpc_": " ".join(f"{a}2{b}" for a, b in permutations(("ar", "en", "es", "fr", "ru", "zh"), 2)),
    "xnli_": "ar bg de el es fr hi ru sw th tr ur vi zh",
    "pawsx_": "de en es fr ja ko zh",
    "csn_ccr_": "go java javascript php python ruby",
    "csn_": "go java javascript php python ruby",
    "xcodeeval_code2code_": PROGRAMS,
    "xcodeeval_nl2code_": PROGRAMS,
    "paracrawl_": """so-en en-sw sw-en en-tg en-azj tg-en en-th azj-en th-en en-tl en-hi tl-en en-uk hi-en uk-en en-vi
en-hy vi-en en-zh zh-en hy-en es-ca ca-es en-id es-eu id-en eu-es es-gl gl-es en-km nl-fr fr-nl pl-cs km-en cs-pl pl-de
en-ko de-pl ko-en en-lo lo-en en-my my-en en-ne ne-en en-ps ps-en en-ru ru-en en-si si-en en-so""",
    "clirmatrix_": """af-bg cv-fa fi-ht ku-mk pnb-sk th-uk ar-fr en hu-ko ml-nl ru-it ur-yo bn-cs es-pt ja-de nn-pms
sl-tg zh""",
    "mqa_": """ca lt nl sr es he id de lv vi it sk ms hi zh hr th no is bg ru pl ja ro da sv uk el pt et cs tr fr fa hu
ko ar fi""",
}
RETRIEVAL = SINGLE.split() + [f"{family}{part}" for family, parts in FAMILIES.items() for part in parts.split()]
ROUTES = {"classification": CLASSIFICATION.split(), "clustering": CLUSTERING.split(), "retrieval": RETRIEVAL}


@pytest.mark.parametrize("kind", ROUTES)
def test_each_name_in_the_authors_lists_takes_the_loss_that_it_takes_there(kind):
    sources = {name: find_released(source_of(f"{name}.parquet")) for name in ROUTES[kind]}
    assert [name for name, source in sources.items() if source is None or source.kind != kind] == []


def test_the_lists_are_complete():
    assert {kind: len(names) for kind, names in ROUTES.items()} == {
        "classification": 10,
        "clustering": 33,
        "retrieval": 459,
    }


@pytest.mark.parametrize(
    "name,language",
    [
        ("webfaq_kat", "kat"),
        ("mmarco_vietnamese", "vie"),
        ("miracl_sw", "swa"),
        ("mkqa_zh_hk", "zho"),
        ("unpc_ar2en", "ara"),
        ("paracrawl_en-azj", "eng"),
        ("paracrawl_azj-en", "aze"),
        ("csn_ccr_go", "code:go"),
        ("xcodeeval_code2code_C++", "code:c++"),
        ("xcodeeval_nl2code_C#", "eng"),
        ("ocr2_cpp", "eng"),
        ("hotpotqa_nl", "nld"),
        ("clirmatrix_af-bg", "und"),
        ("massive_intent", "und"),
    ],
)
def test_the_language_of_the_queries_is_in_the_name(name, language):
    assert find_released(name).language == language


def test_the_seven_sources_of_stage_1():
    """CodeSearchNet and its code-to-code task, OCGI, WebFAQ, mMARCO, CLIRMatrix and ParaCrawl (recipe 2.1)."""
    first = Counter(name.split("_")[0] for name in RETRIEVAL if find_released(source_of(name)).stage_1)
    assert first.keys() == {"csn", "ocgi", "webfaq", "mmarco", "clirmatrix", "paracrawl"}
    assert not any(find_released(name).stage_1 for name in ROUTES["clustering"] + ROUTES["classification"])


def test_the_patterns_of_what_comes_after_stage_1_fit_all_other_files_and_none_of_it():
    """By them `prepare` spares the download of what it would not read."""
    patterns = files_after_stage_1()
    for name in (name for names in ROUTES.values() for name in names):
        matches = any(fnmatchcase(f"{name}.parquet", pattern) for pattern in patterns)
        assert matches is not find_released(source_of(name)).stage_1, name
    assert not any(fnmatchcase("squad_of_mine.parquet", pattern) for pattern in patterns)


def test_bitext_paraphrase_and_similarity_are_symmetric():
    for name in ("unpc_en2fr", "paracrawl_en-so", "qqp", "pawsx_de", "sts12", "nordic_sts_danish", "lcqmc"):
        assert find_released(name).symmetric
    for name in ("snli", "msmarco", "csn_python", "webfaq_eng"):
        assert not find_released(name).symmetric


def test_what_tasks_of_mteb_are_made_of_is_marked():
    marked = {
        name.split("_")[0]
        for names in ROUTES.values()
        for name in names
        if find_released(source_of(name)).overlaps_mteb
    }
    assert marked == {"mkqa", "sib200"}


@pytest.mark.parametrize("name", ["pairs", "my_webfaq_eng", "webfaq_xx", "unpc_ar2", "csn_cobol", "snli_extra"])
def test_other_names_are_not_known(name):
    assert find_released(name) is None


ROW = {"query": "q", "passage": "p", "negative_1": "n"}


@pytest.mark.parametrize(
    "path,row,kinds,expected",
    [
        ("corpus/imdb.parquet", ROW, (), ("classification", "eng", False)),
        ("corpus/unpc_ar2en_part2.parquet", ROW, (), ("retrieval", "ara", True)),
        ("corpus/massive_intent.parquet", ROW | {"lang": "swa"}, (), ("clustering", "swa", False)),
        ("corpus/imdb.parquet", ROW, ("im*=clustering",), ("clustering", "eng", False)),
        ("corpus/imdb.parquet", ROW | {"kind": "retrieval"}, (), ("retrieval", "eng", False)),
        ("corpus/qqp.parquet", ROW | {"symmetric": False}, (), ("retrieval", "eng", False)),
        ("corpus/mine.parquet", ROW, (), ("classification", "und", False)),
        ("corpus/mine.parquet", {"query": "q", "passage": "p"}, (), ("retrieval", "und", False)),
        ("corpus/mine.parquet", ROW | {"negative_2": "m"}, ("mine=clustering",), ("clustering", "und", False)),
        ("corpus/mine.parquet", ROW | {"negative_2": "m", "kind": "retrieval"}, (), ("retrieval", "und", False)),
        ("corpus/imdb.parquet", {"query": "q", "positive": "p"}, (), ("retrieval", "und", False)),
    ],
)
def test_rows_in_the_released_schema_are_read_by_the_name_of_their_file(path, row, kinds, expected):
    (record,) = to_records(path, [row], SkipList(), kinds)
    assert (record.kind, record.language, record.symmetric) == expected


def test_that_an_unknown_source_is_taken_for_classification_is_said_once(caplog):
    def said(path, row=ROW, kinds=()):
        list(to_records(path, [row] * 2, SkipList(), kinds))
        messages = [record.message for record in caplog.records]
        caplog.clear()
        return messages

    assert said("corpus/imdb.parquet") == []
    assert (
        said("a/some_set.parquet", kinds=["some_*=retrieval"])
        == said("a/some_set.parquet", ROW | {"kind": "texts"})
        == []
    )
    (message,) = said("a/some_set.parquet")
    assert (
        "some_set is no source of the released corpus" in message and "add some_set=retrieval to the kinds" in message
    )
    assert said("a/some_set_part2.parquet") == []


def test_a_source_of_which_nobody_says_the_kind_is_refused_with_the_choices():
    message = "my_set is no source .*; add my_set=retrieval or my_set=clustering to the kinds"
    with pytest.raises(UserError, match=message):
        list(to_records("corpus/my_set.parquet", [ROW | {"negative_2": "m"}], SkipList()))
