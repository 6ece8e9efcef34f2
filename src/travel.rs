//! How strings and binaries travel: as views of the bytes that the file holds.
//!
//! Whatever Arrow type a column of strings or binaries is declared with, its values are read as
//! `BinaryView`: nothing is validated, and the values of a dictionary are not repeated. They are
//! written back byte for byte, with the Parquet annotations of the input and with the declared
//! types in `ARROW:schema`. What a caption's bytes mean is decided where it is used.

mod arrive;
mod leaves;

use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::arrow::{ArrowSchemaConverter, add_encoded_arrow_schema_to_metadata};
use parquet::errors::ParquetError;
use parquet::file::metadata::{FileMetaData, ParquetMetaData};
use parquet::file::properties::WriterProperties;
use parquet::schema::types::SchemaDescriptor;

pub use arrive::arrived;
use leaves::{graft, map_leaves, without_text};

/// Whether values of a declared type are strings.
pub fn is_text(declared: &DataType) -> bool {
    match declared {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_text(values),
        _ => false,
    }
}

/// The same, or nulls alone: a column that has no other type, and every row of it a status.
pub fn holds_text(declared: &DataType) -> bool {
    match declared {
        DataType::Null => true,
        DataType::Dictionary(_, values) => holds_text(values),
        other => is_text(other),
    }
}

/// The types that the columns of `declared` travel as.
pub fn travel_schema(declared: &Schema) -> SchemaRef {
    let fields: Vec<_> = declared.fields().iter().map(travel_field).collect();
    Arc::new(Schema::new_with_metadata(fields, declared.metadata().clone()))
}

/// A field of the type that it travels as.
pub fn travel_field(declared: &FieldRef) -> FieldRef {
    match travel_type(declared.data_type()) {
        Some(data_type) => Arc::new(declared.as_ref().clone().with_data_type(data_type)),
        None => declared.clone(),
    }
}

/// The type that values travel as, or `None` where that is the declared one.
fn travel_type(declared: &DataType) -> Option<DataType> {
    use DataType::*;
    let inner = |field: &FieldRef| {
        let data_type = travel_type(field.data_type())?;
        Some(Arc::new(field.as_ref().clone().with_data_type(data_type)))
    };
    match declared {
        Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary => Some(BinaryView),
        // A dictionary of anything else is bounded by the width of its values.
        Dictionary(_, values) => match travel_type(values) {
            None if **values == BinaryView => Some(BinaryView),
            other => other,
        },
        List(field) => inner(field).map(List),
        LargeList(field) => inner(field).map(LargeList),
        ListView(field) => inner(field).map(ListView),
        LargeListView(field) => inner(field).map(LargeListView),
        FixedSizeList(field, size) => inner(field).map(|field| FixedSizeList(field, *size)),
        Map(entries, sorted) => inner(entries).map(|entries| Map(entries, *sorted)),
        Struct(fields) => {
            let travelling: Vec<_> = fields.iter().map(travel_field).collect();
            let changed = travelling.iter().zip(fields).any(|(a, b)| !Arc::ptr_eq(a, b));
            changed.then(|| Struct(travelling.into()))
        }
        _ => None,
    }
}

/// What a reader needs to give the columns of a file in the types that they travel as.
///
/// `declared` is what the file's columns are declared as. Parquet's reader gives a `BinaryView` of
/// a binary column alone, so the reader is told of a file without string annotations. `footer` must
/// not be nested deeply.
pub fn travel_reader(
    footer: &ParquetMetaData,
    declared: &Schema,
) -> Result<ArrowReaderMetadata, ParquetError> {
    let file = footer.file_metadata();
    let root = map_leaves(&file.schema_descr().root_schema_ptr(), &mut without_text)?;
    let plain = FileMetaData::new(
        file.version(),
        file.num_rows(),
        file.created_by().map(str::to_owned),
        file.key_value_metadata().cloned(),
        Arc::new(SchemaDescriptor::new(root)),
        file.column_orders().cloned(),
    );
    // The row groups' own descriptors still say strings. A reader looks at the file's.
    let plain = ParquetMetaData::new(plain, footer.row_groups().to_vec());
    let options = ArrowReaderOptions::new().with_schema(travel_schema(declared));
    ArrowReaderMetadata::try_new(Arc::new(plain), options)
}

/// What a writer needs to write columns that travel so that they look as declared.
///
/// `declared` is the output's columns: those of `input`, then others. The writer itself is made
/// with the schema that the batches have.
pub fn travel_writer(
    declared: &Schema,
    input: &SchemaDescriptor,
    mut properties: WriterProperties,
) -> Result<ArrowWriterOptions, ParquetError> {
    add_encoded_arrow_schema_to_metadata(declared, &mut properties);
    Ok(ArrowWriterOptions::new()
        .with_properties(properties)
        .with_parquet_schema(parquet_schema(declared, input)?)
        .with_skip_arrow_metadata(true))
}

/// The Parquet schema of the output, with the annotations that the input's leaves have: not all of
/// them have an Arrow type (ENUM, BSON).
fn parquet_schema(
    declared: &Schema,
    input: &SchemaDescriptor,
) -> Result<SchemaDescriptor, ParquetError> {
    let made = ArrowSchemaConverter::new().convert(declared)?;
    let same_leaves = input.num_columns() <= made.num_columns()
        && (0..input.num_columns()).all(|leaf| {
            let (of_input, of_made) = (input.get_column_root(leaf), made.get_column_root(leaf));
            of_input.name() == of_made.name()
        });
    if !same_leaves {
        return Ok(made);
    }
    let mut leaves = input.columns().iter();
    let root = map_leaves(&made.root_schema_ptr(), &mut |leaf| match leaves.next() {
        Some(own) => Ok(graft(leaf, own.self_type())),
        None => Ok(leaf.clone()),
    })?;
    Ok(SchemaDescriptor::new(root))
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use arrow::array::{
        ArrayRef, BinaryViewArray, DictionaryArray, ListArray, RecordBatch, StringArray,
        StructArray,
    };
    use arrow::buffer::OffsetBuffer;
    use arrow::datatypes::{Field, Int8Type};
    use parquet::arrow::ArrowWriter;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
    use parquet::basic::ConvertedType;
    use parquet::file::metadata::ParquetMetaDataReader;
    use parquet::schema::parser::parse_message_type;

    use super::*;

    const BAD: &[u8] = b"not UTF-8, and longer than a view: \xff\xfe";

    fn field(name: &str, data_type: DataType) -> FieldRef {
        Arc::new(Field::new(name, data_type, true))
    }

    fn views() -> ArrayRef {
        Arc::new(BinaryViewArray::from_iter([Some(BAD), None, Some(b"".as_slice())]))
    }

    /// Views where strings are declared, at the top and in lists and structs.
    fn table() -> (Schema, RecordBatch) {
        let text = field("text", DataType::Utf8);
        let (item, struct_) = (field("item", DataType::LargeUtf8), [text.clone()].into());
        let declared = Schema::new(vec![
            text,
            field("list", DataType::List(item)),
            field("struct", DataType::Struct(struct_)),
            field("bytes", DataType::LargeBinary),
        ]);
        let travel = travel_schema(&declared);
        let DataType::List(item) = travel.field(1).data_type() else { unreachable!() };
        let DataType::Struct(fields) = travel.field(2).data_type() else { unreachable!() };
        let offsets = OffsetBuffer::from_lengths([2, 0, 1]);
        let columns: Vec<ArrayRef> = vec![
            views(),
            Arc::new(ListArray::new(item.clone(), offsets, views(), None)),
            Arc::new(StructArray::new(fields.clone(), vec![views()], None)),
            views(),
        ];
        let batch = RecordBatch::try_new(travel, columns).expect("the types are those");
        (declared, batch)
    }

    fn write(declared: &Schema, input: &SchemaDescriptor, batch: &RecordBatch) -> File {
        let file = tempfile::tempfile().expect("a file");
        let options = travel_writer(declared, input, WriterProperties::default()).expect("written");
        let to = file.try_clone().expect("the same file");
        let mut writer =
            ArrowWriter::try_new_with_options(to, batch.schema(), options).expect("a writer");
        writer.write(batch).expect("written");
        writer.close().expect("written");
        file
    }

    fn footer(file: &File) -> ParquetMetaData {
        ParquetMetaDataReader::new().parse_and_finish(file).expect("a footer")
    }

    fn read(file: File, declared: &Schema) -> RecordBatch {
        let reader = travel_reader(&footer(&file), declared).expect("it can be read");
        let rows = ParquetRecordBatchReaderBuilder::new_with_metadata(file, reader).build();
        rows.expect("rows").next().expect("a batch").expect("it can be read")
    }

    /// What the file says of its columns to those who ask it.
    fn declared_by(file: &File) -> SchemaRef {
        let metadata = ArrowReaderMetadata::load(file, ArrowReaderOptions::new());
        metadata.expect("a footer").schema().clone()
    }

    #[test]
    fn any_bytes_of_a_string_come_back_and_the_file_says_string() {
        let (declared, batch) = table();
        let none = SchemaDescriptor::new(parse_message_type("message m {}").expect("it is").into());
        let first = write(&declared, &none, &batch);
        assert_eq!(declared_by(&first).fields(), declared.fields());
        let rows = read(first.try_clone().expect("the same file"), &declared);
        assert_eq!(rows, batch);
        let second = write(&declared, footer(&first).file_metadata().schema_descr(), &rows);
        assert_eq!(
            footer(&second).file_metadata().schema(),
            footer(&first).file_metadata().schema()
        );
        assert_eq!(read(second, &declared), batch);
    }

    #[test]
    fn a_dictionary_travels_as_its_values_and_is_declared_as_it_was() {
        let values: DictionaryArray<Int8Type> = [Some("a"), None, Some("a")].into_iter().collect();
        let batch = RecordBatch::try_from_iter([("d", Arc::new(values) as ArrayRef)]).expect("one");
        let file = tempfile::tempfile().expect("a file");
        let to = file.try_clone().expect("the same file");
        let mut writer = ArrowWriter::try_new(to, batch.schema(), None).expect("a writer");
        writer.write(&batch).expect("written");
        writer.close().expect("written");
        let declared = declared_by(&file);
        assert_eq!(declared.fields(), batch.schema().fields());
        let own = footer(&file);
        let rows = read(file, &declared);
        let expected = BinaryViewArray::from_iter([Some(b"a"), None, Some(b"a")]);
        assert_eq!(rows.column(0).as_ref(), &expected);
        let again = write(&declared, own.file_metadata().schema_descr(), &rows);
        assert_eq!(declared_by(&again).fields(), declared.fields());
    }

    #[test]
    fn annotations_without_an_arrow_type_stay_and_new_columns_are_as_declared() {
        let message = "message m {
            optional binary e (ENUM); optional binary b (BSON); optional binary j (JSON);
            optional binary s (STRING); optional binary n; required int96 t;
        }";
        let input = SchemaDescriptor::new(parse_message_type(message).expect("it is").into());
        let types = [DataType::Binary, DataType::Binary, DataType::Utf8, DataType::Utf8];
        let names = ["e", "b", "j", "s"];
        let mut fields: Vec<_> =
            names.iter().zip(types).map(|(name, data_type)| field(name, data_type)).collect();
        fields.push(field("n", DataType::Binary));
        fields.push(field("t", DataType::Date32));
        fields.push(field("status", DataType::Utf8));
        let made = parquet_schema(&Schema::new(fields), &input).expect("it can be made");
        let kinds: Vec<_> = made.columns().iter().map(|leaf| leaf.converted_type()).collect();
        use ConvertedType::{BSON, DATE, ENUM, JSON, NONE, UTF8};
        assert_eq!(kinds, [ENUM, BSON, JSON, UTF8, NONE, DATE, UTF8]);
    }

    #[test]
    fn what_is_no_string_travels_as_declared() {
        let fields = vec![
            field("d", DataType::Decimal128(5, 2)),
            field("f", DataType::FixedSizeBinary(16)),
            field("k", DataType::Dictionary(DataType::Int8.into(), DataType::Int64.into())),
            field("s", DataType::Struct([field("x", DataType::Float32)].into())),
        ];
        let declared = Schema::new(fields);
        assert_eq!(travel_schema(&declared).as_ref(), &declared);
        let text: ArrayRef = Arc::new(StringArray::from(vec!["x"]));
        assert_eq!(travel_type(text.data_type()), Some(DataType::BinaryView));
    }
}
