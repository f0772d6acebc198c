"""The public names of logitstore. Importing it costs nothing: what has a name is loaded with it."""

from typing import TYPE_CHECKING

from logitstore.errors import (
    CorpusError,
    CorruptionError,
    LogitStoreError,
    ModelError,
    NotFinite,
    ObjectMissing,
    SettingError,
    SpecError,
    StorageError,
    StoreError,
    TokenizerError,
    WorkerError,
)
from logitstore.lazy import lazy_names

if TYPE_CHECKING:
    from logitstore.dumping.run import dump
    from logitstore.editing.convert import convert
    from logitstore.editing.extend import extend
    from logitstore.editing.merge import merge
    from logitstore.editing.subset import subset
    from logitstore.exchange.exporting import export_store
    from logitstore.exchange.importing import import_store
    from logitstore.fidelity.audit import audit
    from logitstore.forecast.estimate import estimate
    from logitstore.forecast.tune import tune
    from logitstore.format.spec import SparsifierSpec, StoreSpec, TeacherSpec
    from logitstore.generation.run import generate
    from logitstore.progress import Progress
    from logitstore.serving.serve import serve
    from logitstore.serving.view import view
    from logitstore.sharing.pull import pull
    from logitstore.sharing.push import push
    from logitstore.store.inspect import inspect
    from logitstore.store.reader import Store
    from logitstore.store.reader import open_store as open
    from logitstore.store.storage import Storage
    from logitstore.store.strays import gc, strays
    from logitstore.store.verify import Fault, verify
    from logitstore.targets.documents import Document, DocumentBlock, StoredDocument
    from logitstore.targets.targets import EMPTY_TAIL, SparseTargets
    from logitstore.teacher.base import Teacher

    __version__: str

__all__ = [
    "EMPTY_TAIL",
    "CorpusError",
    "CorruptionError",
    "Document",
    "DocumentBlock",
    "Fault",
    "LogitStoreError",
    "ModelError",
    "NotFinite",
    "ObjectMissing",
    "Progress",
    "SettingError",
    "SparseTargets",
    "SparsifierSpec",
    "SpecError",
    "Storage",
    "StorageError",
    "Store",
    "StoreError",
    "StoreSpec",
    "StoredDocument",
    "Teacher",
    "TeacherSpec",
    "TokenizerError",
    "WorkerError",
    "audit",
    "convert",
    "dump",
    "estimate",
    "export_store",
    "extend",
    "gc",
    "generate",
    "import_store",
    "inspect",
    "merge",
    "open",
    "pull",
    "push",
    "serve",
    "strays",
    "subset",
    "tune",
    "verify",
    "view",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "__version__": "logitstore.version:VERSION",
        "Document": "logitstore.targets.documents",
        "DocumentBlock": "logitstore.targets.documents",
        "EMPTY_TAIL": "logitstore.targets.targets",
        "Fault": "logitstore.store.verify",
        "Progress": "logitstore.progress",
        "SparseTargets": "logitstore.targets.targets",
        "SparsifierSpec": "logitstore.format.spec",
        "Storage": "logitstore.store.storage",
        "Store": "logitstore.store.reader",
        "StoreSpec": "logitstore.format.spec",
        "StoredDocument": "logitstore.targets.documents",
        "Teacher": "logitstore.teacher.base",
        "TeacherSpec": "logitstore.format.spec",
        "audit": "logitstore.fidelity.audit",
        "convert": "logitstore.editing.convert",
        "dump": "logitstore.dumping.run",
        "estimate": "logitstore.forecast.estimate",
        "extend": "logitstore.editing.extend",
        "export_store": "logitstore.exchange.exporting",
        "gc": "logitstore.store.strays",
        "generate": "logitstore.generation.run",
        "import_store": "logitstore.exchange.importing",
        "inspect": "logitstore.store.inspect",
        "merge": "logitstore.editing.merge",
        "open": "logitstore.store.reader:open_store",
        "pull": "logitstore.sharing.pull",
        "push": "logitstore.sharing.push",
        "serve": "logitstore.serving.serve",
        "strays": "logitstore.store.strays",
        "subset": "logitstore.editing.subset",
        "tune": "logitstore.forecast.tune",
        "verify": "logitstore.store.verify",
        "view": "logitstore.serving.view",
    },
)
