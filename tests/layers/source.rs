//! The imports of a crate, read from the tokens of its files: `use` trees and every full path
//! (`crate::…`, `super::…`, `self::…`), also in macros. What is `#[cfg(test)]` does not count.

#![allow(clippy::unwrap_used, reason = "a test says by panicking what is wrong")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A file, as far as it says on what it stands.
#[derive(Debug, Default)]
pub struct File {
    /// Absolute paths of what it names.
    pub imports: BTreeSet<Vec<String>>,
    /// What it names otherwise: name in this module, and what that is.
    pub exports: BTreeMap<String, Vec<String>>,
    /// String literals that are no argument of a call `path(…)`.
    pub literals: Vec<String>,
    /// Functions of `std::env` that it calls.
    pub environment: BTreeSet<String>,
    /// It has an `unsafe` block or function.
    pub has_unsafe: bool,
    /// Lines.
    pub lines: usize,
}

/// Path below src/ without `.rs` and `/mod`, as components: the module.
pub type Module = Vec<String>;

/// All files below `src` but those of tests and of other crates (`bin`).
pub fn read(src: &Path) -> BTreeMap<Module, File> {
    let mut files = BTreeMap::new();
    walk(src, &mut Vec::new(), &mut files);
    files
}

fn walk(dir: &Path, module: &mut Module, files: &mut BTreeMap<Module, File>) {
    let entries = std::fs::read_dir(dir).unwrap();
    let paths: BTreeSet<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    for path in paths {
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() && stem != "bin" {
            module.push(stem);
            walk(&path, module, files);
            module.pop();
        } else if path.extension().is_some_and(|e| e == "rs") && !stem.ends_with("tests") {
            let text = std::fs::read_to_string(&path).unwrap();
            let mut own = module.clone();
            own.extend((stem != "mod" && stem != "lib").then_some(stem));
            let mut file = File { lines: text.lines().count(), ..File::default() };
            let tokens: TokenStream = text.parse().unwrap_or_else(|e| panic!("{path:?}: {e}"));
            tokens_of(tokens, &own, false, &mut file);
            files.insert(own, file);
        }
    }
}

/// Reads `tokens`, which stand in `module`. `checked`: they are the arguments of a call `path(…)`.
pub fn tokens_of(tokens: TokenStream, module: &Module, checked: bool, file: &mut File) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            TokenTree::Punct(p) if p.as_char() == '#' && is_test(tokens.get(at + 1)) => {
                at = end_of_item(&tokens, at + 2);
                continue;
            }
            TokenTree::Ident(word) if word == "use" => {
                let end = (at..tokens.len()).find(|i| is(&tokens[*i], ';')).unwrap();
                let public = at > 0 && is_visibility(&tokens[..at]);
                used(&tokens[at + 1..end], &[], module, public, file);
                at = end;
            }
            TokenTree::Ident(word) if word == "mod" => {
                if let (Some(TokenTree::Ident(name)), Some(TokenTree::Group(body))) =
                    (tokens.get(at + 1), tokens.get(at + 2))
                {
                    let mut inner = module.clone();
                    inner.push(name.to_string());
                    tokens_of(body.stream(), &inner, false, file);
                    at += 2;
                }
            }
            TokenTree::Ident(word) => {
                file.has_unsafe |= word == "unsafe";
                let (path, next) = path_at(&tokens, at);
                if path.len() > 1 {
                    full_path(&path, module, file);
                }
                at = next;
                continue;
            }
            TokenTree::Group(group) => {
                let after_path =
                    at > 0 && matches!(&tokens[at - 1], TokenTree::Ident(i) if i == "path");
                let call = after_path && group.delimiter() == Delimiter::Parenthesis;
                tokens_of(group.stream(), module, call, file);
            }
            TokenTree::Literal(literal) if !checked => file.literals.push(literal.to_string()),
            _ => {}
        }
        at += 1;
    }
}

fn is(token: &TokenTree, sign: char) -> bool {
    matches!(token, TokenTree::Punct(p) if p.as_char() == sign)
}

/// Whether this is `[cfg(test)]`.
fn is_test(token: Option<&TokenTree>) -> bool {
    let text = token.map(|token| token.to_string().replace(' ', ""));
    text.is_some_and(|text| text == "[cfg(test)]")
}

/// Behind the item that begins at `at`: its block or its semicolon.
fn end_of_item(tokens: &[TokenTree], mut at: usize) -> usize {
    while at < tokens.len() {
        let block = matches!(&tokens[at], TokenTree::Group(g) if g.delimiter() == Delimiter::Brace);
        at += 1;
        if block || is(&tokens[at - 1], ';') {
            break;
        }
    }
    at
}

/// Whether what is before a `use` is `pub` or `pub(…)`.
fn is_visibility(before: &[TokenTree]) -> bool {
    let word = |token: &TokenTree| matches!(token, TokenTree::Ident(i) if i == "pub");
    match before {
        [.., last] if word(last) => true,
        [.., first, TokenTree::Group(_)] => word(first),
        _ => false,
    }
}

/// The path that begins at `at`, and where it ends.
fn path_at(tokens: &[TokenTree], mut at: usize) -> (Vec<String>, usize) {
    let mut path = vec![tokens[at].to_string()];
    at += 1;
    while at + 2 < tokens.len() && is(&tokens[at], ':') && is(&tokens[at + 1], ':') {
        let TokenTree::Ident(name) = &tokens[at + 2] else { break };
        path.push(name.to_string());
        at += 3;
    }
    (path, at)
}

fn full_path(path: &[String], module: &Module, file: &mut File) {
    if let Some(absolute) = absolute(path, module) {
        file.imports.insert(absolute);
    }
    if let Some(at) = path.iter().position(|name| name == "env") {
        // Constants say what the program was compiled for.
        file.environment.extend(path.get(at + 1).filter(|name| *name != "consts").cloned());
    }
}

/// `path` from the crate's root; none when it does not say where it begins.
fn absolute(path: &[String], module: &Module) -> Option<Vec<String>> {
    let supers = path.iter().take_while(|name| *name == "super").count();
    let (base, rest) = match path.first()?.as_str() {
        "crate" => (&module[..0], &path[1..]),
        "self" => (&module[..], &path[1..]),
        "super" => (&module[..module.len().checked_sub(supers)?], &path[supers..]),
        _ => return None,
    };
    Some([base, rest].concat())
}

/// The leaves of a `use` tree below `base`.
fn used(tree: &[TokenTree], base: &[String], module: &Module, public: bool, file: &mut File) {
    for part in tree.split(|token| is(token, ',')) {
        let mut path = base.to_vec();
        let mut alias = None;
        let mut tokens = part.iter();
        let mut ended = part.is_empty();
        while let Some(token) = tokens.next() {
            match token {
                TokenTree::Ident(word) if word == "as" => {
                    alias = tokens.next().map(ToString::to_string);
                }
                TokenTree::Ident(word) if word == "self" && !path.is_empty() => {}
                TokenTree::Ident(word) => path.push(word.to_string()),
                TokenTree::Group(group) => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    used(&inner, &path, module, public, file);
                    ended = true;
                }
                _ => {}
            }
        }
        if ended {
            continue;
        }
        let known = ["crate", "self", "super"].contains(&path[0].as_str());
        full_path(&path, module, file);
        let target =
            if known { absolute(&path, module) } else { Some([&module[..], &path[..]].concat()) };
        if let (true, Some(target), Some(last)) = (public, target, path.last()) {
            file.exports.insert(alias.unwrap_or_else(|| last.clone()), target);
        }
    }
}
