//! Encoding and decoding of what every transaction takes: a request with 1 KiB, its answer, rows, an entry.

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use wire_protocol::command::{Command, PAGE_SIZE, encode_frames};
use wire_protocol::entry::{decode_batch, encode_batch};
use wire_protocol::{
    Entry, EntryKind, Frame, FrameDecoder, Params, Request, Response, RowsEncoder, RowsEnd, Term, Value,
};

const ROWS: usize = 100;
const PAGES: u32 = 3;
const MAX_LEN: usize = 1 << 20;

fn frame_of(message: &BytesMut) -> Frame {
    let decoded = FrameDecoder::new(MAX_LEN).decode(&mut message.clone());
    decoded.expect("a frame").expect("a whole frame")
}

fn requests(criterion: &mut Criterion) {
    let values = [Value::Text(Bytes::from_static(&[b'k'; 32])), Value::Blob(Bytes::from_static(&[7; 1024]))];
    let request = Request::Exec { database: 0, statement: 1, params: Params::new(&values) };
    let mut message = BytesMut::new();
    request.encode(&mut message);
    let frame = frame_of(&message);
    criterion.bench_function("decode EXEC of 1 KiB and its parameters", |bencher| {
        bencher.iter(|| {
            let Ok(Request::Exec { params, .. }) = Request::decode(black_box(&frame)) else {
                panic!("it is an EXEC")
            };
            params.map(|value| value.expect("a value").code()).fold(0, u8::wrapping_add)
        });
    });
}

fn responses(criterion: &mut Criterion) {
    let mut buffer = BytesMut::with_capacity(MAX_LEN);
    criterion.bench_function("encode RESULT", |bencher| {
        bencher.iter(|| {
            buffer.clear();
            Response::Result { last_insert_id: black_box(7), rows_affected: 1 }.encode(&mut buffer);
        });
    });
    let mut group = criterion.benchmark_group("rows");
    group.throughput(Throughput::Elements(ROWS as u64));
    group.bench_function("encode 100 rows of an integer and 100 bytes", |bencher| {
        bencher.iter(|| {
            buffer.clear();
            let names = [&b"id"[..], &b"value"[..]];
            let mut rows = RowsEncoder::begin(&mut buffer, names.into_iter());
            for number in 0..ROWS {
                rows.begin_row(2);
                rows.integer(black_box(number as u64).cast_signed());
                rows.blob(black_box(&[7; 100]));
            }
            rows.finish(RowsEnd::Done);
        });
    });
    group.finish();
}

fn entries(criterion: &mut Criterion) {
    let image = [7; PAGE_SIZE];
    let pages: Vec<(u32, &[u8])> = (1..=PAGES).map(|number| (number, &image[..])).collect();
    let mut group = criterion.benchmark_group("entries");
    group.throughput(Throughput::Bytes(u64::from(PAGES) * PAGE_SIZE as u64));
    group.bench_function("encode 3 pages as a FRAMES command", |bencher| {
        bencher.iter(|| encode_frames(b"test.db", black_box(&pages).iter().copied()));
    });
    let data = encode_frames(b"test.db", pages.iter().copied());
    let entry = Entry { term: Term(1), kind: EntryKind::Command, data };
    let mut buffer = BytesMut::with_capacity(MAX_LEN);
    group.bench_function("encode a batch of that entry", |bencher| {
        bencher.iter(|| {
            buffer.clear();
            encode_batch(black_box(std::slice::from_ref(&entry)), &mut buffer);
        });
    });
    buffer.clear();
    encode_batch(std::slice::from_ref(&entry), &mut buffer);
    let batch = buffer.split().freeze();
    group.bench_function("decode the batch and its command", |bencher| {
        bencher.iter(|| {
            let entries = decode_batch(black_box(&batch)).expect("a batch");
            Command::decode(&entries[0].data).expect("a command")
        });
    });
    group.finish();
}

criterion_group!(benches, requests, responses, entries);
criterion_main!(benches);
