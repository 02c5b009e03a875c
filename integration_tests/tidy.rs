//! Holds the source to the project's own rules: who may import whom, which crate is named where, how long a file may
//! be, and that a format does not change without its document.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use self::source::{NamedPath, SourceFile};

#[path = "tidy/source.rs"]
mod source;

const FILE_LINES_MAX: usize = 700;
const CODE_LINES_MAX: usize = 500;

/// Words of the project; they know nothing of what is built with them.
const VOCABULARY: &[&str] = &["id", "size", "clock", "monitor"];
/// Formats: pure and synchronous.
const FORMATS: &[&str] = &["object", "records", "codec", "send_stream", "chunker", "tree", "pack", "index", "schedule"];
/// The world outside.
const EDGES: &[&str] = &["local_index", "store", "btrfs", "config", "lock", "hooks"];
/// What works on a repository, whatever the stream is from.
const OPERATIONS: &[&str] = &["backup", "restore"];
/// What an administrator does with a repository over the years.
const MAINTENANCE: &[&str] = &["check", "copy", "forget", "prune", "repair", "stats"];

/// Modules, and the groups of modules they may import besides themselves.
struct Layer {
    modules: &'static [&'static str],
    imports: &'static [&'static [&'static str]],
}

const LAYERS: &[Layer] = &[
    Layer { modules: VOCABULARY, imports: &[VOCABULARY] },
    Layer { modules: FORMATS, imports: &[VOCABULARY, FORMATS] },
    Layer { modules: &["local_index"], imports: &[VOCABULARY, &["pack"]] },
    Layer { modules: &["retention"], imports: &[VOCABULARY] },
    Layer { modules: &["cost"], imports: &[VOCABULARY, &["store"]] },
    Layer { modules: &["config"], imports: &[VOCABULARY, &["store", "retention", "schedule", "cost"]] },
    Layer { modules: EDGES, imports: &[VOCABULARY] },
    Layer { modules: &["repository"], imports: &[VOCABULARY, FORMATS, &["store", "local_index"]] },
    Layer { modules: OPERATIONS, imports: &[VOCABULARY, FORMATS, &["store", "local_index", "repository"]] },
    Layer { modules: &["doctor"], imports: &[VOCABULARY, FORMATS, EDGES, &["repository", "schedule"]] },
    Layer {
        modules: MAINTENANCE,
        imports: &[VOCABULARY, FORMATS, OPERATIONS, MAINTENANCE, &["store", "local_index", "repository", "retention"]],
    },
    Layer { modules: &["job"], imports: &[VOCABULARY, FORMATS, EDGES, OPERATIONS, MAINTENANCE, &["repository"]] },
    Layer {
        modules: &["cli"],
        imports: &[
            VOCABULARY,
            FORMATS,
            EDGES,
            OPERATIONS,
            MAINTENANCE,
            &["repository", "retention", "job", "doctor", "cost"],
        ],
    },
    Layer {
        modules: &["main"],
        imports: &[VOCABULARY, FORMATS, EDGES, OPERATIONS, MAINTENANCE, &["repository", "job", "cli"]],
    },
];

/// What pure modules do not name.
const IMPURE: &[&[&str]] =
    &[&["tokio"], &["std", "fs"], &["std", "process"], &["std", "net"], &["std", "env"], &["std", "thread"]];

/// Crates, and the files (or folders) that may name them.
const CRATES: &[(&str, &[&str])] = &[
    ("clap", &["src/cli.rs", "src/cli/", "src/main.rs"]),
    ("indicatif", &["src/cli.rs", "src/cli/", "src/main.rs"]),
    ("ciborium", &["src/object.rs", "src/object/"]),
    ("toml", &["src/config.rs", "src/config/"]),
    ("aws_config", &["src/store/s3/"]),
    ("aws_sdk_s3", &["src/store/s3.rs", "src/store/s3/"]),
    ("aws_smithy_http_client", &["src/store/s3/"]),
    ("aws_smithy_types", &["src/store/s3.rs", "src/store/s3/"]),
    ("aws_types", &["src/store/s3/"]),
    ("http_body", &["src/store/s3/"]),
];

/// Items, by the last segments of their paths, and the files that may name them.
const ITEMS: &[(&[&str], &[&str])] = &[
    (&["process", "Command"], &["src/btrfs/command.rs", "src/hooks.rs"]),
    (&["io", "stdout"], &["src/cli/output.rs"]),
    (&["println", "!"], &["src/cli/output.rs"]),
    (&["print", "!"], &["src/cli/output.rs"]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the folder can be listed") {
        let path = entry.expect("the folder can be listed").path();
        if path.is_dir() {
            rust_files_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// All files below `src`, in the order of their paths.
fn all_files() -> Vec<SourceFile> {
    let mut paths = Vec::new();
    rust_files_below(&root().join("src"), &mut paths);
    paths.sort();
    let read = |path: PathBuf| {
        let name = path.strip_prefix(root()).expect("it is below the root").to_str().expect("it is ASCII").to_owned();
        SourceFile::new(&name, &std::fs::read_to_string(&path).expect("source can be read"))
    };
    paths.into_iter().map(read).collect()
}

/// The files that are not modules of tests.
fn code_files(files: &[SourceFile]) -> Vec<&SourceFile> {
    let test_modules: Vec<String> = files.iter().flat_map(SourceFile::test_modules).collect();
    let is_test = |file: &SourceFile| {
        let own = file.path.trim_end_matches(".rs");
        test_modules.iter().any(|module| own == module || own.starts_with(&format!("{module}/")))
    };
    files.iter().filter(|file| !is_test(file)).collect()
}

/// The module of ours that a path in `file` leads to, if it leads to one.
fn imported_module<'p>(file: &SourceFile, path: &NamedPath<'p>) -> Option<&'p str> {
    let supers = path.segments.iter().take_while(|segment| **segment == "super").count();
    match path.segments[..] {
        ["crate" | "btrfs_to_s3", module, ..] => Some(module),
        _ if supers >= file.depth() => {
            path.segments.get(supers).copied().filter(|name| LAYERS.iter().any(|layer| layer.modules.contains(name)))
        }
        _ => None,
    }
}

fn import_faults(files: &[SourceFile]) -> Vec<String> {
    let mut faults = Vec::new();
    for file in code_files(files) {
        let module = file.module();
        if module == "lib" {
            continue;
        }
        let Some(layer) = LAYERS.iter().find(|layer| layer.modules.contains(&module)) else {
            faults.push(format!("{}: the module '{module}' has no layer in {}", file.path, file!()));
            continue;
        };
        for path in file.named_paths() {
            let Some(imported) = imported_module(file, &path) else { continue };
            if imported != module && !layer.imports.iter().any(|group| group.contains(&imported)) {
                faults.push(format!("{}:{}: '{module}' must not import '{imported}'", file.path, path.line));
            }
        }
    }
    faults.dedup();
    faults
}

/// Modules that import each other, however many others are between them.
fn cycle_faults(files: &[SourceFile]) -> Vec<String> {
    let mut reachable: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for file in code_files(files).into_iter().filter(|file| file.module() != "lib") {
        let imports = file.named_paths();
        let imports = imports.iter().filter_map(|path| imported_module(file, path)).map(str::to_owned);
        reachable.entry(file.module()).or_default().extend(imports.filter(|imported| imported != file.module()));
    }
    for _ in 0..reachable.len() {
        let before = reachable.clone();
        for modules in reachable.values_mut() {
            let further: Vec<_> =
                modules.iter().filter_map(|module| before.get(&**module)).flatten().cloned().collect();
            modules.extend(further);
        }
    }
    let in_cycle = reachable.iter().filter(|(module, modules)| modules.contains(**module));
    in_cycle.map(|(module, _)| format!("'{module}' imports itself through others")).collect()
}

fn is_among(path: &str, allowed: &[&str]) -> bool {
    allowed.iter().any(|allowed| path == *allowed || (allowed.ends_with('/') && path.starts_with(allowed)))
}

fn foreign_name_faults(files: &[SourceFile]) -> Vec<String> {
    let mut faults = Vec::new();
    for file in code_files(files) {
        let is_pure = VOCABULARY.contains(&file.module()) || FORMATS.contains(&file.module());
        for path in file.named_paths() {
            let named = &path.segments;
            let names_crate = |(name, _): &&(&str, _)| named.len() > 1 && named[0] == *name;
            let names_item = |(item, _): &&(&[&str], _)| named.windows(item.len()).any(|window| window == *item);
            let by_crate = CRATES.iter().find(names_crate).map(|(_, allowed)| *allowed);
            let by_item = ITEMS.iter().find(names_item).map(|(_, allowed)| *allowed);
            let is_impure = is_pure && named.len() > 1 && IMPURE.iter().any(|item| named.starts_with(item));
            if is_impure || by_crate.or(by_item).is_some_and(|allowed| !is_among(&file.path, allowed)) {
                faults.push(format!("{}:{}: must not name {}", file.path, path.line, named.join("::")));
            }
        }
    }
    faults
}

fn length_faults(files: &[SourceFile]) -> Vec<String> {
    let mut faults = Vec::new();
    for file in files {
        let lines = file.text.lines().count();
        if lines > FILE_LINES_MAX {
            faults.push(format!("{}: has {lines} lines, more than {FILE_LINES_MAX}", file.path));
        }
    }
    for file in code_files(files) {
        let lines = file.code_lines();
        if lines > CODE_LINES_MAX {
            faults.push(format!("{}: has {lines} lines besides its tests, more than {CODE_LINES_MAX}", file.path));
        }
    }
    faults
}

fn documentation_faults(files: &[SourceFile]) -> Vec<String> {
    let undocumented = files.iter().filter(|file| !file.text.starts_with("//! "));
    undocumented.map(|file| format!("{}: does not begin with a line of `//!` documentation", file.path)).collect()
}

/// Compares the table of hashes in the format's document, rows of `| path | hash |`, with the files it names.
fn format_faults(document: &str, files: &[SourceFile]) -> Vec<String> {
    let cell = |cell: &str| cell.trim().trim_matches('`').to_owned();
    let rows = document.lines().filter_map(|line| {
        let mut cells = line.strip_prefix('|')?.split('|').map(cell);
        Some((cells.next()?, cells.next()?)).filter(|(path, _)| path.starts_with("src/"))
    });
    let mut faults = Vec::new();
    let mut is_empty = true;
    for (path, recorded) in rows {
        is_empty = false;
        let Some(file) = files.iter().find(|file| file.path == path) else {
            faults.push(format!("docs/format.md: names {path}, which is not there"));
            continue;
        };
        let Some(text) = file.text_before_tests() else {
            faults.push(format!("{path}: tests must come last in a file whose hash is in docs/format.md"));
            continue;
        };
        let hash = blake3::hash(text.as_bytes()).to_string();
        if hash != recorded {
            faults.push(format!(
                "{path}: the format's code changed: review docs/format.md and put its new hash there: {hash}"
            ));
        }
    }
    if is_empty {
        faults.push("docs/format.md: has no table of the format's files: | `src/…` | `hash` |".to_owned());
    }
    faults
}

fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn modules_import_only_what_is_below_them() {
    assert_none(&import_faults(&all_files()));
}

#[test]
fn no_module_imports_itself_through_others() {
    assert_none(&cycle_faults(&all_files()));
}

#[test]
fn foreign_names_stay_where_they_belong() {
    assert_none(&foreign_name_faults(&all_files()));
}

#[test]
fn files_are_short() {
    assert_none(&length_faults(&all_files()));
}

#[test]
fn every_file_says_what_it_is() {
    assert_none(&documentation_faults(&all_files()));
}

#[test]
fn the_format_does_not_change_without_its_document() {
    let document = std::fs::read_to_string(root().join("docs/format.md")).expect("docs/format.md can be read");
    assert_none(&format_faults(&document, &all_files()));
}

/// The rules themselves, each with code that breaks it.
mod rules {
    use super::*;

    fn file(path: &str, text: &str) -> SourceFile {
        SourceFile::new(path, text)
    }

    #[test]
    fn an_import_from_above_is_found_however_it_is_written() {
        let ways = [
            "use crate::store::Key;",
            "use crate::{id::ChunkId, store::{Key, Store}};",
            "fn f(key: &crate::store::Key) {}",
            "use super::super::store::Key;",
            "use btrfs_to_s3::store::Key;",
        ];
        for way in ways {
            let faults = import_faults(&[file("src/pack/format.rs", way)]);
            assert_eq!(faults, ["src/pack/format.rs:1: 'pack' must not import 'store'"], "{way}");
        }
    }

    #[test]
    fn an_import_from_below_or_in_tests_is_no_fault() {
        let files = [
            file("src/pack.rs", "use crate::id::PackId;\n#[cfg(test)]\nmod tests { use crate::store::Key; }"),
            file("src/store.rs", "mod local;\n#[cfg(test)]\nmod contract;"),
            file("src/store/contract.rs", "use crate::repository::Repository;"),
            file("src/store/local.rs", "use super::Key; use crate::store::Key;"),
            file("src/lib.rs", "pub mod anything;"),
        ];
        assert_none(&import_faults(&files));
    }

    #[test]
    fn a_module_without_a_layer_is_found() {
        let faults = import_faults(&[file("src/helpers/strings.rs", "")]);
        assert!(faults.concat().contains("the module 'helpers' has no layer"), "{faults:?}");
    }

    #[test]
    fn a_cycle_is_found() {
        let files = [
            file("src/pack.rs", "use crate::tree::Tree;"),
            file("src/tree/node.rs", "use crate::index::Index;"),
            file("src/index.rs", "use crate::pack::Pack;"),
            file("src/manifest.rs", "use crate::pack::Pack;"),
        ];
        let expected = ["index", "pack", "tree"].map(|module| format!("'{module}' imports itself through others"));
        assert_eq!(cycle_faults(&files), expected);
    }

    #[test]
    fn a_foreign_name_in_the_wrong_place_is_found() {
        let faults = [
            ("src/job.rs", "use clap::Parser;", "clap::Parser"),
            ("src/manifest.rs", "fn f() { ciborium::into_writer() }", "ciborium::into_writer"),
            ("src/btrfs.rs", "use std::process::{Child, Command};", "std::process::Command"),
            ("src/btrfs.rs", "use std::process; fn f() { process::Command::new() }", "process::Command::new"),
            ("src/cli/list.rs", "fn f() { println!(\"x\") }", "println::!"),
            ("src/restore.rs", "fn f() { std::io::stdout() }", "std::io::stdout"),
            ("src/index.rs", "use std::{fs, io};", "std::fs"),
            ("src/codec.rs", "fn f() { tokio::spawn() }", "tokio::spawn"),
        ];
        for (path, code, name) in faults {
            assert_eq!(foreign_name_faults(&[file(path, code)]), [format!("{path}:1: must not name {name}")]);
        }
        let allowed = [
            ("src/cli/output.rs", "fn f() { println!(\"x\"); std::io::stdout() }"),
            ("src/cli/args.rs", "use clap::Parser;"),
            ("src/btrfs/command.rs", "use std::process::Command;"),
            ("src/btrfs/send.rs", "fn f() { child.stdout.take(); std::process::id() }"),
            ("src/store.rs", "use std::fs;"),
        ];
        for (path, code) in allowed {
            assert_none(&foreign_name_faults(&[file(path, code)]));
        }
    }

    #[test]
    fn a_long_file_is_found_and_tests_count_for_the_file_only() {
        let code = "fn f() {}\n".repeat(CODE_LINES_MAX);
        assert_none(&length_faults(&[file("src/a.rs", &format!("{code}#[cfg(test)]\nmod tests {{\n}}\n"))]));
        assert_eq!(length_faults(&[file("src/a.rs", &format!("{code}\n"))]).len(), 1);
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "\n".repeat(FILE_LINES_MAX));
        assert_eq!(length_faults(&[file("src/a.rs", &tests)]).len(), 1);
    }

    #[test]
    fn a_file_without_documentation_is_found() {
        let files = [file("src/a.rs", "// A.\n"), file("src/b.rs", "//! B.\n")];
        assert_eq!(documentation_faults(&files), ["src/a.rs: does not begin with a line of `//!` documentation"]);
    }

    #[test]
    fn a_changed_format_is_found_and_changed_tests_are_not() {
        let code = "//! Codec.\n";
        let table = format!("| file | BLAKE3 |\n|---|---|\n| `src/codec.rs` | `{}` |\n", blake3::hash(code.as_bytes()));
        let faults = |text: &str| format_faults(&table, &[file("src/codec.rs", text)]).concat();
        assert_eq!(faults(code), "");
        assert_eq!(faults(&format!("{code}#[cfg(test)]\nmod tests {{ }}\n")), "");
        assert!(faults("//! Codec!\n").contains("src/codec.rs: the format's code changed"));
        assert!(faults(&format!("{code}#[cfg(test)]\nmod tests {{ }}\nfn f() {{}}")).contains("tests must come last"));
        assert!(format_faults(&table, &[]).concat().contains("names src/codec.rs, which is not there"));
        assert!(format_faults("# Format\n", &[]).concat().contains("has no table"));
    }
}
