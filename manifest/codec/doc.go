// Package codec has the stored form of a compiled manifest, the bytes of a .cm file.
//
// The frame, version 1:
//
//	offset  bytes
//	0       4     FF 63 6D 00 (no JSON5 text and no UTF-8 starts so)
//	4       1     the version, 1
//	5       4     CRC-32C (Castagnoli) of all that follows, most significant byte first
//	9       …     a message cmgr.decl.v1.Component (proto/decl/v1/decl.proto)
//
// The same declaration gives the same bytes: the body has no maps, and its fields are in the order of the protobuf library, of
// which the golden file of each version is the witness. A reader refuses other versions, a wrong sum (so a file that was cut
// off), and every field and enum value that it doesn't know; whatever is to be added needs a new version, and readers go on
// reading the old ones. A file says nothing of its validity: Load validates it as if it had just been compiled.
package codec
