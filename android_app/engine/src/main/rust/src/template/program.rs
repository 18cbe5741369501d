// Copyright the moe-mobile authors.
// SPDX-License-Identifier: Apache-2.0

//! A template as minijinja's program, with Python's operators in place of its own.
//!
//! Minijinja parses and runs templates, but its values are Rust's: `~` writes `true`, a slice is
//! computed when it is read, a dict's member hides the method of its name. So what it compiled is
//! changed: instructions that differ become calls of functions of ours (`ops.rs`). What neither can
//! do is refused.

use super::budget::{self, error, require, MOST};
use super::syntax::{CONSTANT, SPACE};
use super::value::{ours, str_of};
use super::{filters, methods, ops};
use minijinja::machinery::{
    make_string_output, CompiledTemplate, Instruction, Instructions, TemplateConfig, Vm,
};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, Error, UndefinedBehavior, Value};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Instructions of one rendering. A conversation of 200 messages takes 30,000.
const MOST_FUEL: usize = 2_000_000;
/// Bytes that instructions may write which are not counted: text between tags, in loops.
const MOST_RAW: usize = 512 << 20;
/// Of minijinja's own stack, which macros and loops use.
const MOST_RECURSION: usize = 200;
/// Minijinja's flag of a loop.
const RECURSIVE: u8 = 2;
/// What names of functions begin with that set members.
const SETTER: &str = "\0set ";

/// Whether a text of [`super::syntax::source_of`] is a template that can be run here.
pub fn check(source: &str) -> Result<(), Error> {
    let setters = setters(source)?;
    compile(source, &setters).map(|_| ())
}

/// What a template writes with these values.
pub fn render(source: &str, values: Value) -> Result<String, Error> {
    let setters = setters(source)?;
    let compiled = compile(source, &setters)?;
    let mut environment = environment();
    for setter in &setters {
        let name = setter.trim_start_matches(SETTER).to_owned();
        environment.add_function(setter.as_str(), move |value: Value, namespace: Value| {
            ops::set_member(&namespace, &name, &value)
        });
    }
    let most = MOST_FUEL.min(MOST_RAW / (1 + longest_repeated(&compiled.instructions)));
    environment.set_fuel(Some(most as u64));
    let mut made = String::new();
    let mut output = make_string_output(&mut made);
    let run = Vm::new(&environment).eval(
        &compiled.instructions,
        values,
        &compiled.blocks,
        &mut output,
        AutoEscape::None,
    );
    run.map(|_| ()).map_err(|told| match told.kind() {
        minijinja::ErrorKind::OutOfFuel => error("it takes too many steps"),
        _ => told,
    })?;
    require(made.chars().count(), MOST, "it")?;
    Ok(made)
}

fn environment<'a>() -> Environment<'a> {
    let mut environment = Environment::empty();
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_recursion_limit(MOST_RECURSION);
    environment
        .set_unknown_method_callback(|_, value, name, args| methods::of_text(value, name, args));
    environment.set_formatter(|out, _, value| {
        let text = str_of(value)?;
        budget::spend(text.len() + 64)?;
        out.write_str(&text).map_err(Error::from)
    });
    ops::add_to(&mut environment);
    filters::add_to(&mut environment);
    environment
}

fn parsed(source: &str) -> Result<CompiledTemplate<'_>, Error> {
    let config = TemplateConfig {
        syntax_config: SyntaxConfig,
        ws_config: SPACE,
        default_auto_escape: Arc::new(|_| AutoEscape::None),
    };
    let compiled = CompiledTemplate::new("template", source, &config)?;
    if compiled.blocks.is_empty() {
        return Ok(compiled);
    }
    Err(error("blocks are not supported here"))
}

/// What the functions are called that set members of namespaces, each for one name.
fn setters(source: &str) -> Result<Vec<String>, Error> {
    let compiled = parsed(source)?;
    let all =
        (0..compiled.instructions.len() as u32).filter_map(|at| compiled.instructions.get(at));
    let names = all.filter_map(|instruction| match instruction {
        Instruction::SetAttr(name) => Some(format!("{SETTER}{name}")),
        _ => None,
    });
    Ok(names.collect::<BTreeSet<_>>().into_iter().collect())
}

/// The program of a template. `setters`: those of the same source.
fn compile<'a>(source: &'a str, setters: &'a [String]) -> Result<CompiledTemplate<'a>, Error> {
    let mut compiled = parsed(source)?;
    let instructions = &mut compiled.instructions;
    for at in 0..instructions.len() as u32 {
        let next = match instructions.get(at + 1) {
            Some(Instruction::Emit) => Next::Emit,
            Some(Instruction::BuildMacro(..)) => Next::BuildMacro,
            _ => Next::Other,
        };
        let line = instructions.get_line(at).unwrap_or(0);
        let Some(instruction) = instructions.get_mut(at) else {
            break;
        };
        let ours = replacement(instruction, at, next, setters);
        *instruction = ours.map_err(|told| {
            let what = told.detail().unwrap_or("it is");
            error(format!("{what} not supported here (line {line})"))
        })?;
    }
    Ok(compiled)
}

/// What comes after an instruction.
#[derive(PartialEq)]
enum Next {
    Emit,
    BuildMacro,
    Other,
}

fn replacement<'a>(
    instruction: &Instruction<'a>,
    at: u32,
    next: Next,
    setters: &'a [String],
) -> Result<Instruction<'a>, Error> {
    let call = |name, count| Instruction::CallFunction(name, Some(count));
    Ok(match instruction {
        Instruction::Add => call("\0+", 2),
        Instruction::Sub => call("\0-", 2),
        Instruction::Mul => call("\0*", 2),
        Instruction::Div => call("\0/", 2),
        Instruction::IntDiv => call("\0//", 2),
        Instruction::Rem => call("\0%", 2),
        Instruction::Pow => call("\0**", 2),
        Instruction::Neg => call("\0neg", 1),
        Instruction::Eq => call("\0==", 2),
        Instruction::Ne => call("\0!=", 2),
        Instruction::Lt => call("\0<", 2),
        Instruction::Lte => call("\0<=", 2),
        Instruction::Gt => call("\0>", 2),
        Instruction::Gte => call("\0>=", 2),
        Instruction::In => call("\0in", 2),
        Instruction::StringConcat => call("\0~", 2),
        Instruction::GetItem => call("\0item", 2),
        Instruction::Slice => call("\0slice", 4),
        Instruction::BuildList(Some(count)) if *count < 1 << 15 => call("\0list", *count as u16),
        Instruction::BuildMap(count) if *count < 1 << 14 => call("\0dict", 2 * *count as u16),
        Instruction::BuildList(Some(_)) | Instruction::BuildMap(_) => {
            return Err(error("lists of so many elements are"))
        }
        // Of a macro, the names of its arguments.
        Instruction::LoadConst(value) if next != Next::BuildMacro => {
            Instruction::LoadConst(ours(value)?)
        }
        Instruction::GetAttr(name) => match ops::DICT_METHODS.iter().find(|(one, _)| one == name) {
            Some((_, function)) => call(function, 1),
            None => instruction.clone(),
        },
        Instruction::SetAttr(name) => {
            let setter = setters
                .iter()
                .find(|one| one.strip_prefix(SETTER) == Some(name));
            call(setter.map_or(SETTER, String::as_str), 2)
        }
        Instruction::PushLoop(flags) if flags & RECURSIVE != 0 => {
            return Err(error("recursive loops are"))
        }
        // Goes on with the next.
        Instruction::ApplyFilter(name, ..) if *name == CONSTANT => Instruction::Jump(at + 1),
        // Python marks such texts, and what they are joined with.
        Instruction::ApplyFilter(name @ ("safe" | "e" | "escape"), count, local)
            if next == Next::Emit =>
        {
            let name = if *name == "safe" {
                "\0safe"
            } else {
                "\0escape"
            };
            Instruction::ApplyFilter(name, *count, *local)
        }
        Instruction::ApplyFilter("safe" | "e" | "escape", ..) => {
            return Err(error("marked texts that are not written at once are"))
        }
        Instruction::CompareAndPreserve(_) => return Err(error("comparisons in a row are")),
        Instruction::CallMethod("changed", _) => return Err(error("loop.changed is")),
        Instruction::PushAutoEscape => return Err(error("autoescape is")),
        Instruction::CallBlock(_) | Instruction::LoadBlocks | Instruction::FastSuper => {
            return Err(error("blocks are"))
        }
        Instruction::Include(_) | Instruction::ExportLocals => {
            return Err(error("other templates are"))
        }
        other => other.clone(),
    })
}

/// The longest text between tags that may be written more than once, in bytes.
fn longest_repeated(instructions: &Instructions) -> usize {
    let count = instructions.len() as u32;
    let mut repeats = vec![false; count as usize + 1];
    for at in 0..count {
        let (from, to) = match instructions.get(at) {
            Some(Instruction::Jump(target)) if *target <= at => (*target, at),
            Some(Instruction::BuildMacro(..)) => (0, at),
            _ => continue,
        };
        repeats[from as usize..=to as usize].fill(true);
    }
    let raw = (0..count)
        .filter(|&at| repeats[at as usize])
        .filter_map(|at| match instructions.get(at) {
            Some(Instruction::EmitRaw(text)) => Some(text.len()),
            _ => None,
        });
    raw.max().unwrap_or(0)
}
