//! A small reader of GraphQL documents: enough to see fields, arguments and directives.
//!
//! It does not validate against a schema; the resolvers refuse fields that they do not know.

use std::collections::HashMap;

use serde_json::{Map, Value};

/// The deepest nesting that is read.
pub const DEPTH_MAX: usize = 32;

/// What is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SyntaxError(pub String);

/// A kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads.
    Query,
    /// Writes.
    Mutation,
}

/// A variable that an operation declares.
#[derive(Clone, Debug)]
pub struct Variable {
    /// Its name, without the dollar sign.
    pub name: String,
    /// Whether its type ends in `!` and it has no default.
    pub required: bool,
    /// Its default.
    pub default: Option<Input>,
}

/// An operation of a document.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Query or mutation.
    pub kind: Kind,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Its variables.
    pub variables: Vec<Variable>,
    /// Its root fields.
    pub selections: Vec<Selection>,
}

/// A part of a selection set.
#[derive(Clone, Debug)]
pub enum Selection {
    /// A field.
    Field(Field),
    /// `... on Type { … }` or `... { … }`.
    Inline(Option<String>, Vec<Selection>),
    /// `...name`.
    Spread(String),
}

/// Arguments of a field or directive, in order.
pub type Arguments = Vec<(String, Input)>;
/// A directive with its arguments.
pub type Directive = (String, Arguments);

/// A field with what hangs on it.
#[derive(Clone, Debug)]
pub struct Field {
    /// The key in the answer: the alias, or the name.
    pub key: String,
    /// The name.
    pub name: String,
    /// Its arguments.
    pub arguments: Arguments,
    /// Its directives with their arguments.
    pub directives: Vec<Directive>,
    /// What is selected below it.
    pub selections: Vec<Selection>,
}

/// A value in a document.
#[derive(Clone, Debug)]
pub enum Input {
    /// A variable.
    Variable(String),
    /// A scalar or an enum.
    Plain(Value),
    /// A list.
    List(Vec<Input>),
    /// An object.
    Object(Vec<(String, Input)>),
}

impl Input {
    /// Returns the value with variables filled in; an absent variable is nothing.
    #[must_use]
    pub fn value(&self, variables: &Map<String, Value>) -> Option<Value> {
        match self {
            Self::Variable(name) => variables.get(name).cloned(),
            Self::Plain(value) => Some(value.clone()),
            Self::List(items) => Some(Value::Array(
                items.iter().map(|item| item.value(variables).unwrap_or_default()).collect(),
            )),
            Self::Object(fields) => Some(Value::Object(
                fields
                    .iter()
                    .filter_map(|(name, value)| Some((name.clone(), value.value(variables)?)))
                    .collect(),
            )),
        }
    }
}

/// A document: operations and fragments.
#[derive(Clone, Debug, Default)]
pub struct Document {
    /// The operations.
    pub operations: Vec<Operation>,
    /// The named fragments.
    pub fragments: HashMap<String, Vec<Selection>>,
}

/// Reads a document.
///
/// # Errors
/// [`SyntaxError`] in words.
pub fn parse(text: &str) -> Result<Document, SyntaxError> {
    let mut reader = Reader { tokens: tokens(text)?, next: 0 };
    let mut document = Document::default();
    while reader.peek().is_some() {
        reader.definition(&mut document)?;
    }
    if document.operations.is_empty() {
        return Err(SyntaxError(
            "A query attribute must be specified and must be a string.".into(),
        ));
    }
    Ok(document)
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Name(String),
    Text(String),
    Number(Value),
    Mark(&'static str),
}

const MARKS: [&str; 14] = ["...", "{", "}", "(", ")", "[", "]", ":", "!", "$", "=", "@", "|", "&"];

fn tokens(text: &str) -> Result<Vec<Token>, SyntaxError> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if first.is_whitespace() || first == ',' || first == '\u{feff}' {
            rest = &rest[first.len_utf8()..];
        } else if first == '#' {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
        } else if let Some(mark) = MARKS.into_iter().find(|mark| rest.starts_with(mark)) {
            found.push(Token::Mark(mark));
            rest = &rest[mark.len()..];
        } else if first == '"' {
            let (string, after) = text_token(rest)?;
            found.push(Token::Text(string));
            rest = after;
        } else if first.is_ascii_alphabetic() || first == '_' {
            let end = end_of(rest, |c| c.is_ascii_alphanumeric() || c == '_');
            found.push(Token::Name(rest[..end].to_owned()));
            rest = &rest[end..];
        } else if first.is_ascii_digit() || first == '-' {
            let end = end_of(rest, |c| c.is_ascii_alphanumeric() || "+-.".contains(c));
            let number = serde_json::from_str(&rest[..end])
                .map_err(|_| SyntaxError(format!("syntax error, unexpected {:?}", &rest[..end])))?;
            found.push(Token::Number(number));
            rest = &rest[end..];
        } else {
            return Err(SyntaxError(format!("syntax error, unexpected {first:?}")));
        }
    }
    Ok(found)
}

fn end_of(text: &str, inside: impl Fn(char) -> bool) -> usize {
    text.find(|c| !inside(c)).unwrap_or(text.len())
}

/// Reads a string or a block string; returns it and what follows.
fn text_token(rest: &str) -> Result<(String, &str), SyntaxError> {
    let unclosed = || SyntaxError("syntax error, unclosed string".into());
    if let Some(block) = rest.strip_prefix("\"\"\"") {
        let end = block.find("\"\"\"").ok_or_else(unclosed)?;
        return Ok((block[..end].trim().to_owned(), &block[end + 3..]));
    }
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == '"' {
            let string = serde_json::from_str(&rest[..=at]).map_err(|_| unclosed())?;
            return Ok((string, &rest[at + 1..]));
        }
    }
    Err(unclosed())
}

struct Reader {
    tokens: Vec<Token>,
    next: usize,
}

impl Reader {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next)
    }

    fn at(&self, mark: &str) -> bool {
        matches!(self.peek(), Some(Token::Mark(found)) if *found == mark)
    }

    fn eat(&mut self, mark: &str) -> bool {
        let found = self.at(mark);
        if found {
            self.next += 1;
        }
        found
    }

    fn expect(&mut self, mark: &str) -> Result<(), SyntaxError> {
        if self.eat(mark) { Ok(()) } else { Err(self.unexpected(mark)) }
    }

    fn unexpected(&self, wanted: &str) -> SyntaxError {
        match self.peek() {
            Some(token) => SyntaxError(format!("Parse error on {token:?}, expected {wanted:?}")),
            None => SyntaxError(format!("Unexpected end of document, expected {wanted:?}")),
        }
    }

    fn name(&mut self) -> Result<String, SyntaxError> {
        let Some(Token::Name(name)) = self.peek() else { return Err(self.unexpected("a name")) };
        let name = name.clone();
        self.next += 1;
        Ok(name)
    }

    fn maybe_name(&mut self) -> Option<String> {
        matches!(self.peek(), Some(Token::Name(_))).then(|| self.name().ok()).flatten()
    }

    fn definition(&mut self, document: &mut Document) -> Result<(), SyntaxError> {
        if self.at("{") {
            let selections = self.selections(0)?;
            let operation =
                Operation { kind: Kind::Query, name: None, variables: Vec::new(), selections };
            document.operations.push(operation);
            return Ok(());
        }
        let word = self.name()?;
        let kind = match word.as_str() {
            "query" => Kind::Query,
            "mutation" => Kind::Mutation,
            "fragment" => {
                let name = self.name()?;
                self.name()?; // on
                self.name()?; // the type
                let selections = self.selections(0)?;
                document.fragments.insert(name, selections);
                return Ok(());
            }
            _ => return Err(SyntaxError(format!("Parse error on {word:?}"))),
        };
        let name = self.maybe_name();
        let variables = self.variables()?;
        self.directives()?;
        let selections = self.selections(0)?;
        document.operations.push(Operation { kind, name, variables, selections });
        Ok(())
    }

    fn variables(&mut self) -> Result<Vec<Variable>, SyntaxError> {
        let mut found = Vec::new();
        if !self.eat("(") {
            return Ok(found);
        }
        while !self.eat(")") {
            self.expect("$")?;
            let name = self.name()?;
            self.expect(":")?;
            let not_null = self.type_not_null()?;
            let default = if self.eat("=") { Some(self.input(0)?) } else { None };
            found.push(Variable { name, required: not_null && default.is_none(), default });
        }
        Ok(found)
    }

    /// Reads a type; returns whether it ends in `!`.
    fn type_not_null(&mut self) -> Result<bool, SyntaxError> {
        if self.eat("[") {
            self.type_not_null()?;
            self.expect("]")?;
        } else {
            self.name()?;
        }
        Ok(self.eat("!"))
    }

    fn selections(&mut self, depth: usize) -> Result<Vec<Selection>, SyntaxError> {
        if depth > DEPTH_MAX {
            return Err(SyntaxError(format!("document is deeper than {DEPTH_MAX}")));
        }
        let mut found = Vec::new();
        self.expect("{")?;
        while !self.eat("}") {
            found.push(if self.eat("...") { self.spread(depth)? } else { self.field(depth)? });
        }
        Ok(found)
    }

    fn spread(&mut self, depth: usize) -> Result<Selection, SyntaxError> {
        let on = match self.maybe_name() {
            Some(word) if word == "on" => Some(self.name()?),
            Some(name) => {
                self.directives()?;
                return Ok(Selection::Spread(name));
            }
            None => None,
        };
        self.directives()?;
        Ok(Selection::Inline(on, self.selections(depth + 1)?))
    }

    fn field(&mut self, depth: usize) -> Result<Selection, SyntaxError> {
        let key = self.name()?;
        let name = if self.eat(":") { self.name()? } else { key.clone() };
        let arguments = self.arguments()?;
        let directives = self.directives()?;
        let selections = if self.at("{") { self.selections(depth + 1)? } else { Vec::new() };
        Ok(Selection::Field(Field { key, name, arguments, directives, selections }))
    }

    fn arguments(&mut self) -> Result<Arguments, SyntaxError> {
        let mut found = Vec::new();
        if !self.eat("(") {
            return Ok(found);
        }
        while !self.eat(")") {
            let name = self.name()?;
            self.expect(":")?;
            found.push((name, self.input(0)?));
        }
        Ok(found)
    }

    fn directives(&mut self) -> Result<Vec<Directive>, SyntaxError> {
        let mut found = Vec::new();
        while self.eat("@") {
            let name = self.name()?;
            found.push((name, self.arguments()?));
        }
        Ok(found)
    }

    fn input(&mut self, depth: usize) -> Result<Input, SyntaxError> {
        if depth > DEPTH_MAX {
            return Err(SyntaxError(format!("value is deeper than {DEPTH_MAX}")));
        }
        if self.eat("$") {
            return Ok(Input::Variable(self.name()?));
        }
        if self.eat("[") {
            let mut items = Vec::new();
            while !self.eat("]") {
                items.push(self.input(depth + 1)?);
            }
            return Ok(Input::List(items));
        }
        if self.eat("{") {
            let mut fields = Vec::new();
            while !self.eat("}") {
                let name = self.name()?;
                self.expect(":")?;
                fields.push((name, self.input(depth + 1)?));
            }
            return Ok(Input::Object(fields));
        }
        let value = match self.peek() {
            Some(Token::Text(text)) => Value::from(text.as_str()),
            Some(Token::Number(number)) => number.clone(),
            Some(Token::Name(word)) => match word.as_str() {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                "null" => Value::Null,
                word => Value::from(word),
            },
            Some(Token::Mark(_)) | None => return Err(self.unexpected("a value")),
        };
        self.next += 1;
        Ok(Input::Plain(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mutation_with_variables_and_a_directive_is_read() {
        let document = parse(
            "mutation M($input: [In!]!, $key: String! = \"k\") { # why\n a: set(input: $input, \
             n: 3, names: [\"x\", \"y\"]) @idempotent(key: $key) { id ...F ... on T { b } } } \
             fragment F on T { c }",
        )
        .expect("it is well formed");
        let operation = &document.operations[0];
        assert_eq!(operation.kind, Kind::Mutation);
        assert!(operation.variables[0].required && !operation.variables[1].required);
        let Selection::Field(field) = &operation.selections[0] else { panic!("not a field") };
        assert_eq!((field.key.as_str(), field.name.as_str()), ("a", "set"));
        assert_eq!(field.directives[0].0, "idempotent");
        assert_eq!(field.selections.len(), 3);
        assert!(document.fragments.contains_key("F"));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "{", "query {", "{ a(b: ) }", "{ a \"x }", "subscription { a }", "{ ; }"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }
}
