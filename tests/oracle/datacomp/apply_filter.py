"""Functions of DataComp's baselines/apply_filter.py and baselines/utils.py, unchanged.

From github.com/mlfoundations/datacomp at commit 4a8df1992566ef8334773f7152e1855b1f716162, MIT, see
LICENSE beside this file. Imports differ: threads for
processes, and what detects languages is set by who imports this.
"""

from functools import partial
from multiprocessing.pool import ThreadPool as Pool
from typing import Any, List, Tuple

import fsspec
import numpy as np
import pandas as pd
from tqdm import tqdm

fasttext = gcld3 = download = None


def worker_threadpool(
    worker_fn: Any, concat_fn: Any, paths: List[str], n_workers: int
) -> np.ndarray:
    """get filtered uids

    Args:
        worker_fn (Any): function to map over the pool
        concat_fn (Any): function to use to collate the results
        paths (List[str]): metadata paths to process
        n_workers (int): number of cpu workers

    Returns:
        np.ndarray: filtered uids
    """
    print("creating thread pool for processing")
    with Pool(n_workers) as pool:
        uids = []
        for u in tqdm(
            pool.imap_unordered(worker_fn, paths),
            total=len(paths),
        ):
            uids.append(u)

    return concat_fn(uids)


def get_fasttext_language(text: str, lang_detect_model: Any) -> str:
    """helper to detect language of a piece of text (fasttext)

    Args:
        text (str): text whose language we want to determing
        lang_detect_model (Any): fasttext model to detect langauge

    Returns:
        str: ISO language code
    """
    text = text.replace("\n", " ")
    language = lang_detect_model.predict(text)[0][0].split("__label__")[1]

    return language


def get_gcld3_language(text: str, gcld3_model) -> str:
    """helper to detect language of a piece of text (gcld3).
    Note: this is only used for our LAION-2B filtering reproduction

    Args:
        text (str): text whose language we want to determing
        lang_detect_model (Any): fasttext model to detect langauge

    Returns:
        str: ISO language code
    """
    text = text.replace("\n", " ")
    language = gcld3_model.FindLanguage(text=text).language

    return language


def load_uids_with_basic_filter_helper(fs_url: Tuple[Any, str]) -> np.ndarray:
    """helper to run basic filter on a single parquet

    Args:
        fs_url (Tuple[Any, str]): pair of fsspec file system and parquet url

    Returns:
        np.ndarray: array of uids
    """
    fs, url = fs_url
    df = pd.read_parquet(
        url, columns=["uid", "text", "original_width", "original_height"], filesystem=fs
    )

    lang_detect_model = fasttext.load_model(download("fasttext", "~/.cache/fasttext"))

    fasttext_lang_pred = df.text.apply(
        lambda x: get_fasttext_language(x, lang_detect_model)
    )
    caption_num_words = df.text.apply(lambda x: len(x.split()))
    caption_num_chars = df.text.apply(lambda x: len(x))
    uid_int = df.uid.apply(int, base=16)
    uid_upper_uint64 = (uid_int // 2**64).astype("uint64")
    uid_lower_uint64 = (uid_int % 2**64).astype("uint64")

    inds_array = np.array(list(zip(uid_upper_uint64, uid_lower_uint64)), "u8,u8")

    english_mask = fasttext_lang_pred == "en"
    caption_mask = (caption_num_words > 2) & (caption_num_chars > 5)
    min_image_dim = np.minimum(df.original_width, df.original_height)
    max_image_dim = np.maximum(df.original_width, df.original_height)
    aspect_ratio = max_image_dim / min_image_dim
    image_mask = (min_image_dim >= 200) & (aspect_ratio <= 3.0)

    return inds_array[english_mask & caption_mask & image_mask]


def load_uids_with_clip_score_helper(
    fs_url: Tuple[Any, str], key: str, threshold: float, gcld3_en_filter: bool
) -> np.ndarray:
    """helper to load parquet metadata with a threshold applied to a column

    Args:
        fs_url (Tuple[Any, str]): pair of fsspec file system and parquet url
        key (str): column we are interested in the parquet column store
        threshold (float): threshold value to apply on the key column
        gcld3_en_filter (bool): if ture, apply gcld3 english filtering (used for laion2b filter)

    Returns:
        np.ndarray: array of uids
    """
    fs, url = fs_url
    df = None

    if gcld3_en_filter:
        df = pd.read_parquet(url, columns=["uid", "text", key], filesystem=fs)

        lang_detect_model = gcld3.NNetLanguageIdentifier(
            min_num_bytes=0, max_num_bytes=1000
        )
        gcld3_lang_pred = df.text.apply(
            lambda x: get_gcld3_language(x, lang_detect_model)
        )
        df = df[gcld3_lang_pred == "en"]
    else:
        df = pd.read_parquet(url, columns=["uid", key], filesystem=fs)

    return np.array(
        [
            (int(uid[:16], 16), int(uid[16:32], 16))
            for uid in df[df[key] >= threshold]["uid"].values
        ],
        np.dtype("u8,u8"),
    )


def load_metadata(
    metadata_dir_path: str, num_workers: int, columns: List[str] = None
) -> pd.DataFrame:
    """load metadata for many parquets

    Args:
        metadata_dir_path (str): directory where metadata is stored
        num_workers (int): number of cpu workers, each of which processes a parquet
        columns (List[str], optional): list of columns to retain from the parquet. Defaults to None.

    Returns:
        pd.DataFrame: loaded parquet columns
    """
    fs, url = fsspec.core.url_to_fs(metadata_dir_path)
    parquet_paths = [str(x) for x in fs.ls(url) if ".parquet" in x]
    worker = partial(pd.read_parquet, columns=columns, filesystem=fs)

    return worker_threadpool(worker, pd.concat, parquet_paths, num_workers)


def get_threshold(
    metadata_dir_path: str, key: str, fraction: float, num_workers: int
) -> float:
    """compute a threshold given a collection of metadata, a key, and a target fraction of the pool to keep

    Args:
        metadata_dir_path (str): directory where metadata is stored
        key (str): column we are interested in the parquet column store
        fraction (float): top k fraction, represented as a decimal.
        num_workers (int): number of cpu workers, each of which processes a parquet.

    Returns:
        float: threshold value
    """
    print("loading all metadata for threshold computation")
    df = load_metadata(metadata_dir_path, num_workers=num_workers, columns=[key])
    n = int(len(df) * fraction)
    threshold = -np.sort(-df[key].values)[n]

    return threshold


def load_uids_with_clip_score(
    metadata_dir_path: str,
    arch: str,
    threshold: float,
    fraction: float,
    num_workers: int,
    gcld3_en_filter: bool = False,
) -> np.ndarray:
    """load in metadata with a threshold applied

    Args:
        metadata_dir_path (str): directory where metadata is stored
        key (str): column we are interested in the parquet column store
        threshold (float): threshold value to apply on the key column
        fraction (float): fraction value to apply on the key column
        num_workers (int): number of cpu workers, each of which processes a parquet
        gcld3_en_filter (bool): if True, apply gcld3 english filtering (used for laion2b filter)
                                Default False.

    Returns:
        np.ndarray: array of uids
    """

    # NOTE: assumes errors already checked as in baselines.py
    key = "clip_l14_similarity_score"
    if arch == "b32":
        key = "clip_b32_similarity_score"

    if threshold is None:
        # convert a fraction into a threshold
        threshold = get_threshold(metadata_dir_path, key, fraction, num_workers)

    fs, url = fsspec.core.url_to_fs(metadata_dir_path)
    parquet_paths = [(fs, str(x)) for x in fs.ls(url) if ".parquet" in x]

    worker = partial(
        load_uids_with_clip_score_helper,
        key=key,
        threshold=threshold,
        gcld3_en_filter=gcld3_en_filter,
    )

    return worker_threadpool(worker, np.concatenate, parquet_paths, num_workers)


def load_uids_with_basic_filter(metadata_dir_path: str, num_workers: int) -> np.ndarray:
    """basic filter from the datacomp paper

    Args:
        metadata_dir_path (str): directory where metadata is stored
        num_workers (int): number of cpu workers, each of which processes a parquet

    Returns:
        np.ndarray: array of uids
    """
    fs, url = fsspec.core.url_to_fs(metadata_dir_path)
    parquet_paths = [(fs, str(x)) for x in fs.ls(url) if ".parquet" in x]

    # download fasttext so that all workers dont't try to download at once
    download("fasttext", "~/.cache/fasttext")

    return worker_threadpool(
        load_uids_with_basic_filter_helper, np.concatenate, parquet_paths, num_workers
    )
