//! What of SQLite's surface clients may use: one table of functions, PRAGMAs and virtual tables, from SQLite 3.40 to 3.54.
//!
//! A function or virtual table that stands here nowhere is the host's (`sqlite3_auto_extension`), and allowed. A PRAGMA
//! that stands here nowhere is allowed too: SQLite ignores those that it does not know. A test compares the table with
//! what the linked SQLite says of itself, and fails for what it does not decide.

use std::ffi::CStr;

use crate::depth::{Token, Tokens};

/// What is decided of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Computes from its arguments and the database, or changes this connection only.
    Allowed,
    /// A PRAGMA that may be asked for its value, and not be given one.
    ReadOnly,
    /// A PRAGMA that may be asked for its value and turned off, not on.
    OnlyOff,
    /// A PRAGMA that SQLite never sees: [`checkpoint_len`] finds it, and an empty answer is compiled in its place.
    Answered,
    /// `not authorized`.
    Refused,
}

use Verdict::{Allowed, Answered, OnlyOff, ReadOnly, Refused};

/// Functions: `(verdict, names)`.
pub(crate) const FUNCTIONS: &[(Verdict, &str)] = &[
    // It gives out the address of a tokenizer, and takes one that is then called. FTS3 itself does not need it.
    (Refused, "fts3_tokenizer"),
    // Reaches the log callback of the whole process.
    (Refused, "sqlite_log"),
    // Code of a client's choice in the process.
    (Refused, "load_extension"),
    // In builds for tests only: files beneath the VFS, failing allocations.
    (Refused, "fpdecode oom parseuri sqlite_filestat sqlite_walstat"),
    // Operators and core functions.
    (
        Allowed,
        "-> ->> abs affinity avg changes char coalesce concat concat_ws count expr_compare expr_implies_expr format glob \
         group_concat hex if ifnull iif implies_nonnull_row instr last_insert_rowid length like likelihood likely lower \
         ltrim match max median min nullif octet_length percentile percentile_cont percentile_disc printf quote random \
         randomblob replace round rtrim sign soundex sqlite_compileoption_get sqlite_compileoption_used sqlite_offset \
         sqlite_source_id sqlite_version string_agg substr substring subtype sum total total_changes trim typeof unhex \
         unicode unistr unistr_quote unknown unlikely upper zeroblob",
    ),
    // Date and time.
    (
        Allowed,
        "current_date current_time current_timestamp date datedebug datetime julianday strftime time timediff unixepoch",
    ),
    // Mathematics.
    (
        Allowed,
        "acos acosh asin asinh atan atan2 atanh ceil ceiling cos cosh degrees exp floor ln log log10 log2 mod pi pow power \
         radians sin sinh sqrt tan tanh trunc",
    ),
    // Window functions.
    (
        Allowed,
        "cume_dist dense_rank first_value lag last_value lead nth_value ntile percent_rank rank row_number",
    ),
    // JSON.
    (
        Allowed,
        "json json_array json_array_insert json_array_length json_each json_error_position json_extract json_group_array \
         json_group_object json_insert json_object json_parse json_patch json_pretty json_quote json_remove json_replace \
         json_set json_tree json_type json_valid jsonb jsonb_array jsonb_array_insert jsonb_each jsonb_extract \
         jsonb_group_array jsonb_group_object jsonb_insert jsonb_object jsonb_patch jsonb_remove jsonb_replace jsonb_set \
         jsonb_tree",
    ),
    // Full-text search. fts5() hands a pointer to those who bind one, which no client can.
    (
        Allowed,
        "bm25 fts5 fts5_decode fts5_decode_none fts5_expr fts5_expr_tcl fts5_fold fts5_get_locale fts5_insttoken \
         fts5_isalnum fts5_locale fts5_rowid fts5_source_id highlight matchinfo offsets optimize snippet",
    ),
    // R-trees and polygons.
    (
        Allowed,
        "geopoly_area geopoly_bbox geopoly_blob geopoly_ccw geopoly_contains_point geopoly_debug geopoly_group_bbox \
         geopoly_json geopoly_overlap geopoly_regular geopoly_svg geopoly_within geopoly_xform rtreecheck rtreedepth \
         rtreenode",
    ),
    // What ALTER TABLE uses inside; SQLite refuses them to everybody else.
    (
        Allowed,
        "sqlite_add_constraint sqlite_drop_column sqlite_drop_constraint sqlite_fail sqlite_find_constraint \
         sqlite_rename_column sqlite_rename_quotefix sqlite_rename_table sqlite_rename_test",
    ),
];

/// PRAGMAs: `(verdict, names)`.
pub(crate) const PRAGMAS: &[(Verdict, &str)] = &[
    // How pages are stored, how they reach the disk and who holds which lock is the node's business.
    (Refused, "busy_timeout locking_mode read_uncommitted"),
    (ReadOnly, "journal_mode page_size synchronous wal_autocheckpoint"),
    // Limits and directories of the whole process.
    (ReadOnly, "data_store_directory hard_heap_limit soft_heap_limit temp_store_directory"),
    // A schema written by hand makes a database that nobody can open again, and a version of it set by hand makes other
    // connections use a schema that is gone. Defensive mode ignores both without a word.
    (ReadOnly, "schema_version"),
    (OnlyOff, "writable_schema"),
    // Of encryption extensions, and for debugging: keys, tracing to stdout, raw access.
    (
        Refused,
        "activate_extensions hexkey hexrekey key lock_status parser_trace rekey sql_trace stats textkey textrekey \
         vdbe_addoptrace vdbe_debug vdbe_eqp vdbe_listing vdbe_trace",
    ),
    // Checkpoints are the node's business; programs that ask for one (kine) hear that nothing is left to do.
    (Answered, "wal_checkpoint"),
    // The node's own.
    (Allowed, "delete_database"),
    // About the schema, the build or the database: they only read. integrity_check and quick_check among them.
    (
        Allowed,
        "collation_list compile_options data_version database_list foreign_key_check foreign_key_list freelist_count \
         function_list index_info index_list index_xinfo integrity_check module_list page_count pragma_list quick_check \
         table_info table_list table_xinfo",
    ),
    // Written to the database as ordinary transactions.
    (
        Allowed,
        "application_id auto_vacuum default_cache_size encoding incremental_vacuum optimize user_version",
    ),
    // Of this connection, and gone with it. Trusted schema and legacy switches stay as C leaves them.
    (
        Allowed,
        "analysis_limit automatic_index cache_size cache_spill case_sensitive_like cell_size_check checkpoint_fullfsync \
         count_changes defer_foreign_keys empty_result_callbacks foreign_keys full_column_names fullfsync \
         ignore_check_constraints journal_size_limit legacy_alter_table legacy_file_format max_page_count mmap_size \
         query_only recursive_triggers reverse_unordered_selects secure_delete short_column_names shrink_memory \
         temp_store threads trusted_schema",
    ),
];

/// Virtual tables, `(verdict, names)`: what may be created, and written to. A `pragma_NAME` stands under its PRAGMA.
pub(crate) const MODULES: &[(Verdict, &str)] = &[
    // Raw pages could break the header of the database. Defensive mode makes it read-only, too.
    (Refused, "sqlite_dbpage"),
    (
        Allowed,
        "bytecode dbstat fts3 fts3tokenize fts4 fts4aux fts5 fts5_structure fts5vocab geopoly json_each json_tree \
         jsonb_each jsonb_tree rtree rtree_i32 sqlite_stmt tables_used",
    ),
];

/// What a table decides of a name; SQLite's names know no case.
pub(crate) fn verdict(table: &[(Verdict, &str)], name: &[u8]) -> Option<Verdict> {
    let is_it =
        |names: &str| names.split_whitespace().any(|other| name.eq_ignore_ascii_case(other.as_bytes()));
    table.iter().find(|(_, names)| is_it(names)).map(|(verdict, _)| *verdict)
}

/// Whether a PRAGMA may be used with this value.
pub(crate) fn pragma_is_allowed(name: &[u8], value: Option<&[u8]>) -> bool {
    // RESET reads the schema again.
    let off: [&[u8]; 5] = [b"0", b"off", b"false", b"no", b"reset"];
    match verdict(PRAGMAS, name).unwrap_or(Allowed) {
        Allowed => true,
        ReadOnly => value.is_none(),
        OnlyOff => value.is_none_or(|value| off.iter().any(|word| value.eq_ignore_ascii_case(word))),
        Answered | Refused => false,
    }
}

/// Whether a function or a virtual table may be used; those that the table does not know are the host's.
pub(crate) fn is_allowed(table: &[(Verdict, &str)], name: &[u8]) -> bool {
    verdict(table, name) != Some(Refused)
}

/// What SQLite compiles in place of `PRAGMA wal_checkpoint`.
pub(crate) const CHECKPOINT_ANSWER: &CStr = c"SELECT 0 AS busy, 0 AS log, 0 AS checkpointed";

/// Length of the first statement of `sql` if it is `PRAGMA wal_checkpoint` in one of its forms.
pub(crate) fn checkpoint_len(sql: &[u8]) -> Option<usize> {
    let mut tokens = Tokens(sql);
    let is = |token: Option<Token<'_>>, name: &[u8]| matches!(token, Some(Token::Word(word)) if word.eq_ignore_ascii_case(name));
    if !is(tokens.next(), b"PRAGMA") {
        return None;
    }
    let first = tokens.next();
    let mut next = tokens.next();
    if next == Some(Token::Mark(b'.')) {
        is(tokens.next(), b"wal_checkpoint").then_some(())?;
        next = tokens.next();
    } else {
        is(first, b"wal_checkpoint").then_some(())?;
    }
    let is_value = |token| matches!(token, Some(Token::Word(_) | Token::Quoted(_) | Token::Value));
    if next == Some(Token::Mark(b'=')) {
        is_value(tokens.next()).then_some(())?;
        next = tokens.next();
    } else if next == Some(Token::Mark(b'(')) {
        (is_value(tokens.next()) && tokens.next() == Some(Token::Mark(b')'))).then_some(())?;
        next = tokens.next();
    }
    matches!(next, None | Some(Token::Mark(b';'))).then(|| sql.len() - tokens.0.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DatabaseName, Step, Vfs};

    #[test]
    fn the_table_decides_everything_that_the_linked_sqlite_has() {
        let vfs = Vfs::register().unwrap();
        let mut connection = vfs.open(&DatabaseName::new(b"test").unwrap()).unwrap();
        let mut undecided = Vec::new();
        for (list, table, least) in
            [("function", FUNCTIONS, 60), ("pragma", PRAGMAS, 50), ("module", MODULES, 3)]
        {
            let sql = format!("SELECT DISTINCT name FROM pragma_{list}_list");
            let mut statement = connection.prepare(sql.as_bytes()).unwrap().statement.unwrap();
            let mut count = 0;
            while statement.step().unwrap() == Step::Row {
                let crate::ColumnValue::Text(name) = statement.column(0) else { panic!("a name is text") };
                count += 1;
                let of_pragma = name.strip_prefix(b"pragma_").filter(|_| list == "module");
                let decided = of_pragma.map_or_else(|| verdict(table, name), |name| verdict(PRAGMAS, name));
                if decided.is_none() {
                    undecided.push(format!("{list} {}", String::from_utf8_lossy(name)));
                }
            }
            assert!(count >= least, "{count} names in pragma_{list}_list");
        }
        assert_eq!(undecided, Vec::<String>::new());
    }

    #[test]
    fn a_name_stands_in_one_place_only() {
        for table in [FUNCTIONS, PRAGMAS, MODULES] {
            let mut names: Vec<_> = table.iter().flat_map(|(_, names)| names.split_whitespace()).collect();
            names.sort_unstable();
            let count = names.len();
            names.dedup();
            assert_eq!(names.len(), count);
        }
    }

    #[test]
    fn forms_of_the_checkpoint_pragma() {
        for (sql, len) in [
            ("PRAGMA wal_checkpoint", 21),
            ("pragma main.WAL_CHECKPOINT(TRUNCATE); SELECT 1", 37),
            (" PRAGMA /* x */ wal_checkpoint = 'full' ;", 41),
        ] {
            assert_eq!(checkpoint_len(sql.as_bytes()), Some(len), "{sql}");
        }
        for sql in [
            "PRAGMA wal_checkpoint(",
            "PRAGMA wal_autocheckpoint",
            "SELECT wal_checkpoint",
            "PRAGMA wal_checkpoint 1",
            "PRAGMA wal_checkpoint.x",
            "",
        ] {
            assert_eq!(checkpoint_len(sql.as_bytes()), None, "{sql}");
        }
    }
}
