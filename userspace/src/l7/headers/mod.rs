//! Rules about headers, one noun each: functions of header maps.

mod rules;

pub(super) use rules::Rules;
