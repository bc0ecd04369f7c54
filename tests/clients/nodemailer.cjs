// Sends the mail that standard input describes, by nodemailer; prints what the server said, exit code 1 when refused.
"use strict";
const events = require("events");
const fs = require("fs");
const net = require("net");
const nodemailer = require("nodemailer");

async function send(task) {
    if (task.authority) task.transport.tls = { ca: fs.readFileSync(task.authority) };
    if (task.socket) {
        task.transport.connection = net.connect(task.socket);
        await events.once(task.transport.connection, "connect");
    }
    const mail = { envelope: task.envelope, raw: fs.readFileSync(task.file) };
    return nodemailer.createTransport(task.transport).sendMail(mail);
}

send(JSON.parse(fs.readFileSync(0, "utf8"))).then(
    (info) => console.log(info.response),
    (error) => {
        console.log(error.message);
        process.exitCode = 1;
    },
);
