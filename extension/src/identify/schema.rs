//! The JSON Schema of signature files is written by hand, so that its descriptions are for people. These tests hold it
//! against the types, the files and the loader.

use jsonschema::Validator;
use serde::de::value::Error;
use serde::de::{Deserialize, Deserializer, Error as _, Visitor};
use serde_json::Value;

use super::builtin;
use super::format::{Detection, File, InEndpoints, InRegex, Not, Roles, Version};
use super::signature::Signature;

const SCHEMA: &str = include_str!("../../../schemas/signature.schema.json");

fn schema() -> Value {
    serde_json::from_str(SCHEMA).unwrap()
}

/// What the schema says of a file's text.
fn fits(validator: &Validator, text: &str) -> bool {
    let value: Value = serde_saphyr::from_str(text).unwrap();
    validator.is_valid(&value)
}

/// The keys that a type reads, aliases too: what it asks its deserializer for.
fn keys<'de, T: Deserialize<'de>>() -> Vec<&'static str> {
    thread_local!(static ASKED: std::cell::Cell<&'static [&'static str]> = const { std::cell::Cell::new(&[]) });

    struct Asked;

    impl<'de> Deserializer<'de> for Asked {
        type Error = Error;

        fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
            Err(Error::custom("only keys are asked for"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _name: &'static str,
            fields: &'static [&'static str],
            visitor: V,
        ) -> Result<V::Value, Error> {
            ASKED.set(fields);
            self.deserialize_any(visitor)
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    assert!(T::deserialize(Asked).is_err());
    let mut keys = ASKED.get().to_vec();
    keys.sort_unstable();
    keys
}

#[test]
fn it_has_every_key_of_the_format_and_no_other() {
    let schema = schema();
    let has = |pointer: &str, keys: Vec<&str>| {
        let object = schema.pointer(pointer).unwrap_or_else(|| panic!("{pointer}"));
        assert_eq!(object["additionalProperties"], Value::Bool(false), "{pointer}");
        let mut properties: Vec<&str> = object["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        properties.sort_unstable();
        assert_eq!(properties, keys, "{pointer}");
    };
    has("", keys::<File>());
    has("/$defs/detection", keys::<Detection>());
    has("/$defs/detection/properties/not/items", keys::<Not>());
    has("/$defs/inRegex", keys::<InRegex>());
    has("/properties/roles", keys::<Roles>());
    has("/properties/version/items", keys::<Version>());
    has("/properties/network_endpoints/anyOf/1", keys::<InEndpoints>());
}

#[test]
fn every_key_is_documented() {
    let page = include_str!("../../../docs/signatures.md");
    for key in [keys::<File>(), keys::<Detection>(), keys::<Roles>(), keys::<InEndpoints>()].concat() {
        let told = ["`KEY`", ".KEY`", "`KEY."].map(|form| form.replace("KEY", key));
        assert!(told.iter().any(|form| page.contains(form)), "docs/signatures.md: {key}");
    }
}

#[test]
fn every_shipped_file_and_every_example_fits() {
    let validator = jsonschema::draft202012::new(&schema()).unwrap();
    for (name, text) in builtin::FILES {
        assert!(fits(&validator, text), "{name}");
    }
    for example in include_str!("../../../docs/signatures.md").split("```yaml\n").skip(1) {
        let example = example.split("```").next().unwrap();
        assert!(fits(&validator, example), "{example}");
        let signature = Signature::compile("docs/signatures.md", example).unwrap();
        assert_eq!(signature.literals().1, [""; 0], "the examples are good ones");
    }
}

#[test]
fn it_refuses_what_the_loader_refuses() {
    let validator = jsonschema::draft202012::new(&schema()).unwrap();
    let both = |text: &str| (fits(&validator, text), Signature::compile("test", text).is_ok());
    let with = |detection: &str| format!("name: own\ndetection:\n  {detection}\n");
    let good = [
        with("exe_patterns: ['/opt/own/x', {regex: '/own/'}]"),
        with("packages: ['npm:@own/agent', 'npm:own', 'pypi:own_agent', 'vsix:own.agent-x']"),
        with("names: [own]\n  env: [OWN]\n  versions: '>=1, <2'"),
        with("process_names: [own]\n  command_patterns: [own, {regex: own}]"),
        with("names: [own]\n  parent_hints: [launcher]\nnetwork_endpoints: ['*.example.com']"),
        with("script_modules: [own]\nnetwork_endpoints: {expected: [a], suspicious_if_not_in_list: false}"),
        "name: own\nprocess_patterns: ['^own$']\ncommand_patterns: ['x']\ntrack_children: false\nicon: a.png\n".into(),
    ];
    for text in good {
        assert_eq!(both(&text), (true, true), "{text}");
    }
    let bad = [
        "name: Own\ndetection: {packages: ['npm:own']}\n".into(),
        "display_name: Own\ndetection: {packages: ['npm:own']}\n".into(),
        with("exe_patterns: [own]"),
        with("exe_patterns: [{regex: x, glob: y}]"),
        with("exe_patterns: '/opt/own/x'"),
        with("exe_paterns: ['/opt/own/x']"),
        with("packages: [own]"),
        with("packages: ['npm:@own']"),
        with("packages: ['vsix:own']"),
        with("packages: ['npm:own']\n  env: ['A=b']"),
        with("packages: ['npm:own']\n  names: [a/b]"),
        with("packages: ['npm:own']\n  not: [{}]"),
        with("packages: ['npm:own']\nversion: [{path: '(x)', package_json: y}]"),
        with("packages: ['npm:own']\nversion: [{package_json: /y}]"),
        with("packages: ['npm:own']\nsessions: [x]"),
        with("packages: ['npm:own']\ncategory: toaster"),
        with("packages: ['npm:own']\nroles: {main: [x]}"),
        with("packages: ['npm:own']\nnetwork_endpoints: ['http://x/']"),
        with("packages: ['npm:own']\nnetwork_endpoints: {hosts: [x]}"),
        with("packages: ['npm:own']\nprocess_patterns: [own]"),
        with("packages: ['npm:own']\ntrack_children: 1"),
    ];
    for text in bad {
        assert_eq!(both(&text), (false, false), "{text}");
    }
}
