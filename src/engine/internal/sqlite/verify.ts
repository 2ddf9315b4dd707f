/** Verifies that an SQLite file can be written. */
import type { DatabaseSync } from "node:sqlite"

/**
 * Writes a record and takes it back. `BEGIN IMMEDIATE` alone does not fail on a file that this process may only read.
 * The record has an owner that no key has, and no other connection ever sees it.
 */
export const verify = (db: DatabaseSync): void => {
  db.exec("BEGIN IMMEDIATE")
  try {
    db.exec("INSERT INTO records (owner, id, version, data) VALUES ('', '', 1, '')")
  } finally {
    // After some errors, SQLite has rolled back by itself.
    if (db.isTransaction) db.exec("ROLLBACK")
  }
}
